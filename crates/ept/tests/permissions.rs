//! Which accesses does ordinary paging allow? Every combination of R/W, U/S and XD in the entry that maps the page and in one
//! above it, as literal tables after SDM 3A 4.6.1, Determination of Access Rights (rev 077).
//!
//! A row is what the entry that maps the page allows, a column what one entry above it does, in this order, with `x` for XD 0:
//!
//! ```text
//! ---  w--  -u-  wu-  --x  w-x  -ux  wux
//! ```
//!
//! `+` is an access allowed, `.` a page fault by rights, `r` one by a reserved bit.

mod support;

use softvirt_ept::{Access, Direct, Operation, Paging, PagingSupport, Privilege, walk};
use support::{Builder, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa};

const GVA: u64 = 0x7f00_4000_5000;
const PAGE: u64 = 0x5000;

const USER_READ: Access = Access::new(Operation::Read, Privilege::User);
const USER_WRITE: Access = Access::new(Operation::Write, Privilege::User);
const USER_FETCH: Access = Access::new(Operation::Fetch, Privilege::User);
const READ: Access = Access::new(Operation::Read, Privilege::Supervisor);
const WRITE: Access = Access::new(Operation::Write, Privilege::Supervisor);
const FETCH: Access = Access::new(Operation::Fetch, Privilege::Supervisor);
const IMPLICIT_READ: Access = Access::new(Operation::Read, Privilege::ImplicitSupervisor);
const IMPLICIT_WRITE: Access = Access::new(Operation::Write, Privilege::ImplicitSupervisor);

struct Guest {
    /// Each gives the same table: names of the modifiers that are 1.
    settings: &'static [&'static str],
    accesses: &'static [Access],
    /// The error code of a fault by rights.
    code: u32,
    cells: [&'static str; 8],
}

const WITH_NXE: &[Guest] = &[
    Guest {
        settings: &["", "WP", "SMAP WP SMEP", "WP SMAP AC"],
        accesses: &[USER_READ],
        code: 0b101,
        cells: ["........", "........", "..++..++", "..++..++", "........", "........", "..++..++", "..++..++"],
    },
    Guest {
        settings: &["", "WP", "SMAP AC SMEP"],
        accesses: &[USER_WRITE],
        code: 0b111,
        cells: ["........", "........", "........", "...+...+", "........", "........", "........", "...+...+"],
    },
    Guest {
        settings: &["", "WP", "SMEP"],
        accesses: &[USER_FETCH],
        code: 0b1_0101,
        cells: ["........", "........", "........", "........", "........", "........", "......++", "......++"],
    },
    Guest {
        settings: &["", "WP SMEP"],
        accesses: &[READ, IMPLICIT_READ],
        code: 0b001,
        cells: ["++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++"],
    },
    Guest {
        settings: &["SMAP AC", "WP SMAP AC"],
        accesses: &[READ],
        code: 0b001,
        cells: ["++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++"],
    },
    Guest {
        settings: &["SMAP", "WP SMAP SMEP"],
        accesses: &[READ, IMPLICIT_READ],
        code: 0b001,
        cells: ["++++++++", "++++++++", "++..++..", "++..++..", "++++++++", "++++++++", "++..++..", "++..++.."],
    },
    Guest {
        settings: &["SMAP AC", "WP SMAP AC"],
        accesses: &[IMPLICIT_READ],
        code: 0b001,
        cells: ["++++++++", "++++++++", "++..++..", "++..++..", "++++++++", "++++++++", "++..++..", "++..++.."],
    },
    Guest {
        settings: &["", "SMEP"],
        accesses: &[WRITE, IMPLICIT_WRITE],
        code: 0b011,
        cells: ["++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++"],
    },
    Guest {
        settings: &["WP", "WP SMEP"],
        accesses: &[WRITE, IMPLICIT_WRITE],
        code: 0b011,
        cells: ["........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+"],
    },
    Guest {
        settings: &["SMAP"],
        accesses: &[WRITE, IMPLICIT_WRITE],
        code: 0b011,
        cells: ["++++++++", "++++++++", "++..++..", "++..++..", "++++++++", "++++++++", "++..++..", "++..++.."],
    },
    Guest {
        settings: &["WP SMAP"],
        accesses: &[WRITE, IMPLICIT_WRITE],
        code: 0b011,
        cells: ["........", ".+.+.+.+", "........", ".+...+..", "........", ".+.+.+.+", "........", ".+...+.."],
    },
    Guest {
        settings: &["SMAP AC"],
        accesses: &[WRITE],
        code: 0b011,
        cells: ["++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++"],
    },
    Guest {
        settings: &["WP SMAP AC"],
        accesses: &[WRITE],
        code: 0b011,
        cells: ["........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+"],
    },
    Guest {
        settings: &["SMAP AC"],
        accesses: &[IMPLICIT_WRITE],
        code: 0b011,
        cells: ["++++++++", "++++++++", "++..++..", "++..++..", "++++++++", "++++++++", "++..++..", "++..++.."],
    },
    Guest {
        settings: &["WP SMAP AC"],
        accesses: &[IMPLICIT_WRITE],
        code: 0b011,
        cells: ["........", ".+.+.+.+", "........", ".+...+..", "........", ".+.+.+.+", "........", ".+...+.."],
    },
    Guest {
        settings: &["", "WP SMAP"],
        accesses: &[FETCH],
        code: 0b1_0001,
        cells: ["........", "........", "........", "........", "....++++", "....++++", "....++++", "....++++"],
    },
    Guest {
        settings: &["SMEP", "WP SMEP SMAP AC"],
        accesses: &[FETCH],
        code: 0b1_0001,
        cells: ["........", "........", "........", "........", "....++++", "....++++", "....++..", "....++.."],
    },
];

/// XD is a reserved bit while IA32_EFER.NXE is 0.
const WITHOUT_NXE: &[Guest] = &[
    Guest {
        settings: &["", "WP"],
        accesses: &[USER_READ],
        code: 0b101,
        cells: ["rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrr....", "rrrr....", "rrrr..++", "rrrr..++"],
    },
    Guest {
        settings: &[""],
        accesses: &[USER_FETCH],
        code: 0b101,
        cells: ["rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrr....", "rrrr....", "rrrr..++", "rrrr..++"],
    },
    Guest {
        settings: &["SMEP"],
        accesses: &[FETCH],
        code: 0b1_0001,
        cells: ["rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrr++++", "rrrr++++", "rrrr++..", "rrrr++.."],
    },
    Guest {
        settings: &["WP"],
        accesses: &[WRITE],
        code: 0b011,
        cells: ["rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrrrrrr", "rrrr....", "rrrr.+.+", "rrrr....", "rrrr.+.+"],
    },
];

/// Shadow-stack accesses, if the dirty flag of the entry that maps the page is 1.
const USER_SHADOW_STACK: [&str; 8] =
    ["........", "........", "...+...+", "........", "........", "........", "...+...+", "........"];
const SUPERVISOR_SHADOW_STACK: [&str; 8] =
    [".+.+.+.+", "........", ".+...+..", "........", ".+.+.+.+", "........", ".+...+..", "........"];

/// What a combination puts into an entry.
fn bits(combination: usize) -> u64 {
    let combination = combination as u64;
    (combination & 1) << 1 | (combination & 2) << 1 | (!combination & 4) << 61
}

fn paging(root: u64, settings: &str, nxe: bool) -> Paging {
    let on = |name: &str| settings.split(' ').any(|setting| setting == name);
    let (mut cr0, mut cr4) = (Cr0::PE | Cr0::PG, Cr4::PAE);
    cr0.set(Cr0::WP, on("WP"));
    cr4.set(Cr4::SMEP, on("SMEP"));
    cr4.set(Cr4::SMAP, on("SMAP"));
    let efer = if nxe { Efer::LME | Efer::NXE } else { Efer::LME };
    let mut paging = Paging::new(cr0, root, cr4, efer, &PagingSupport::new(46));
    paging.modifiers.alignment_check = on("AC");
    paging
}

/// Walks one cell, with the upper combination at each level above the page's, and compares the answer and every flag.
fn cell(
    paging: &dyn Fn(u64) -> Paging,
    access: Access,
    leaf: usize,
    upper: usize,
    flags: u64,
    expected: Result<(), u32>,
) {
    for level in 1..4 {
        let ram = FlatRam::new(0x1_8000);
        let builder = Builder::new(&ram, 0x1_0000);
        let root = builder.table();
        let table_flags = flags & 0x20;
        let at = builder.map(root, 4, GVA, PAGE, 1, 7 | table_flags, 1 | bits(leaf) | flags);
        ram.set(at[level], ram.get(at[level]) & !6 | bits(upper));
        let before = ram.words();
        let paging = paging(root);
        let answer = walk(&ram, &paging, &Direct, Gva(GVA), access);
        let told = answer.map(|found| found.hpa).map_err(|failure| failure.page_fault_error_code(&paging, access));
        let case =
            format!("{access:?} leaf {leaf:03b} upper {upper:03b} at level {} {:?}", level + 1, paging.modifiers);
        assert_eq!(told, expected.map(|()| Hpa(PAGE)), "{case}");
        match expected {
            Ok(()) => {
                let dirty = if access.is_write() { 0x40 } else { 0 };
                assert_eq!(ram.get(at[0]), PAGE | 1 | bits(leaf) | flags | 0x20 | dirty, "{case}");
                assert!(at[1..].iter().all(|at| ram.get(*at) & 0x60 == 0x20), "{case}");
            }
            Err(_) => assert!(ram.words() == before, "{case}"),
        }
    }
}

fn grid(table: &Guest, nxe: bool) {
    for settings in table.settings {
        for access in table.accesses {
            for (leaf, row) in table.cells.iter().enumerate() {
                for (upper, cell_is) in row.bytes().enumerate() {
                    let expected = match cell_is {
                        b'+' => Ok(()),
                        b'.' => Err(table.code),
                        b'r' => Err(table.code | 8),
                        _ => unreachable!("no such cell"),
                    };
                    for flags in [0, 0x20, 0x60] {
                        cell(&|root| paging(root, settings, nxe), *access, leaf, upper, flags, expected);
                    }
                }
            }
        }
    }
}

#[test]
fn rights_with_execute_disable() {
    for table in WITH_NXE {
        grid(table, true);
    }
}

#[test]
fn rights_without_execute_disable() {
    for table in WITHOUT_NXE {
        grid(table, false);
    }
}

#[test]
fn rights_of_shadow_stack_accesses() {
    for (operation, write_bit) in [(Operation::Read, 0), (Operation::Write, 2)] {
        for (privilege, code, cells) in [
            (Privilege::User, 0b100_0101, USER_SHADOW_STACK),
            (Privilege::Supervisor, 0b100_0001, SUPERVISOR_SHADOW_STACK),
            (Privilege::ImplicitSupervisor, 0b100_0001, SUPERVISOR_SHADOW_STACK),
        ] {
            let access = Access::new(operation, privilege).shadow_stack();
            for (leaf, row) in cells.iter().enumerate() {
                for (upper, cell_is) in row.bytes().enumerate() {
                    let denied = Err(code | write_bit);
                    let expected = if cell_is == b'+' { Ok(()) } else { denied };
                    // CR4.CET demands CR0.WP. SMAP has no say: a shadow-stack access and its page are of one mode.
                    for settings in ["WP", "WP SMAP SMEP"] {
                        cell(&|root| paging(root, settings, true), access, leaf, upper, 0x60, expected);
                        cell(&|root| paging(root, settings, true), access, leaf, upper, 0x40, expected);
                        // Without the dirty flag nothing is a shadow stack.
                        cell(&|root| paging(root, settings, true), access, leaf, upper, 0x20, denied);
                    }
                }
            }
        }
    }
}
