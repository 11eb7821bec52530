//! Which accesses does the second dimension allow? Every combination of rights in the entry that maps the page and in one above
//! it, as literal tables after SDM 3C 28.3.3, EPT-Induced VM Exits (rev 077), and APM 2 15.25.7, 15.25.13 and 15.25.14.
//!
//! A row is what the entry that maps the page allows, a column what one entry above it does. In EPT, in this order:
//!
//! ```text
//! ---  r--  -w-  rw-  --x  r-x  -wx  rwx     and with mode-based execute control once more, with XU
//! ```
//!
//! `+` is an access allowed, `v` an EPT violation by rights, `n` one by an entry that is not present, `M` an EPT
//! misconfiguration. In nested tables `+` and `.`, in this order, with `x` for NX 0:
//!
//! ```text
//! ---  w--  -u-  wu-  --x  w-x  -ux  wux
//! ```

mod support;

use softvirt_ept::{
    Access, EptControls, EptEvent, EptSupport, Failure, Npt as Nested, NptControls, Operation, Paging, PagingSupport,
    Privilege, SecondDimension, Translation, walk,
};
use support::{Builder, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gpa, Gva, Hpa};

const GVA: u64 = 0x7f00_4000_5000;
/// The page and the guest's page table lie in parts of the guest-physical space that share no entry with anything else.
const PAGE: u64 = 1 << 39 | 1 << 30 | 1 << 21 | 0x5000;
const TABLE: u64 = 2 << 39 | 2 << 30 | 2 << 21 | 0x6000;
const PAGE_HPA: u64 = 0x5000;
const TABLE_HPA: u64 = 0x6000;

const USER_READ: Access = Access::new(Operation::Read, Privilege::User);
const USER_WRITE: Access = Access::new(Operation::Write, Privilege::User);
const USER_FETCH: Access = Access::new(Operation::Fetch, Privilege::User);
const READ: Access = Access::new(Operation::Read, Privilege::Supervisor);
const WRITE: Access = Access::new(Operation::Write, Privilege::Supervisor);
const FETCH: Access = Access::new(Operation::Fetch, Privilege::Supervisor);
const SHADOW_READ: Access = READ.shadow_stack();
const SHADOW_WRITE: Access = WRITE.shadow_stack();

struct Ept {
    what: &'static str,
    execute_only: bool,
    access: Access,
    user_page: bool,
    cells: &'static [&'static str],
}

const PLAIN: &[Ept] = &[
    Ept {
        what: "data read",
        execute_only: true,
        access: USER_READ,
        user_page: true,
        cells: &["nnMnnnMn", "n+M+v+M+", "nMMMMMMM", "n+M+v+M+", "nvMvvvMv", "n+M+v+M+", "nMMMMMMM", "n+M+v+M+"],
    },
    Ept {
        what: "data write",
        execute_only: true,
        access: USER_WRITE,
        user_page: true,
        cells: &["nnMnnnMn", "nvMvvvMv", "nMMMMMMM", "nvM+vvM+", "nvMvvvMv", "nvMvvvMv", "nMMMMMMM", "nvM+vvM+"],
    },
    Ept {
        what: "fetch",
        execute_only: true,
        access: USER_FETCH,
        user_page: true,
        cells: &["nnMnnnMn", "nvMvvvMv", "nMMMMMMM", "nvMvvvMv", "nvMv++M+", "nvMv++M+", "nMMMMMMM", "nvMv++M+"],
    },
    Ept {
        what: "data read",
        execute_only: false,
        access: USER_READ,
        user_page: true,
        cells: &["nnMnMnMn", "n+M+M+M+", "nMMMMMMM", "n+M+M+M+", "nMMMMMMM", "n+M+M+M+", "nMMMMMMM", "n+M+M+M+"],
    },
    Ept {
        what: "data write",
        execute_only: false,
        access: USER_WRITE,
        user_page: true,
        cells: &["nnMnMnMn", "nvMvMvMv", "nMMMMMMM", "nvM+MvM+", "nMMMMMMM", "nvMvMvMv", "nMMMMMMM", "nvM+MvM+"],
    },
    Ept {
        what: "fetch",
        execute_only: false,
        access: USER_FETCH,
        user_page: true,
        cells: &["nnMnMnMn", "nvMvMvMv", "nMMMMMMM", "nvMvMvMv", "nMMMMMMM", "nvMvM+M+", "nMMMMMMM", "nvMvM+M+"],
    },
];

const MODE_BASED: &[Ept] = &[
    Ept {
        what: "data read",
        execute_only: true,
        access: READ,
        user_page: false,
        cells: &[
            "nnMnnnMnnnMnnnMn",
            "n+M+v+M+v+M+v+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+v+M+v+M+v+M+",
            "nvMvvvMvvvMvvvMv",
            "n+M+v+M+v+M+v+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+v+M+v+M+v+M+",
            "nvMvvvMvvvMvvvMv",
            "n+M+v+M+v+M+v+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+v+M+v+M+v+M+",
            "nvMvvvMvvvMvvvMv",
            "n+M+v+M+v+M+v+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+v+M+v+M+v+M+",
        ],
    },
    Ept {
        what: "data write",
        execute_only: true,
        access: WRITE,
        user_page: false,
        cells: &[
            "nnMnnnMnnnMnnnMn",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+vvM+vvM+vvM+",
            "nvMvvvMvvvMvvvMv",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+vvM+vvM+vvM+",
            "nvMvvvMvvvMvvvMv",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+vvM+vvM+vvM+",
            "nvMvvvMvvvMvvvMv",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+vvM+vvM+vvM+",
        ],
    },
    Ept {
        what: "fetch from a supervisor-mode address",
        execute_only: true,
        access: FETCH,
        user_page: false,
        cells: &[
            "nnMnnnMnnnMnnnMn",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvvvMvvvMvvvMv",
            "nvMv++M+vvMv++M+",
            "nvMv++M+vvMv++M+",
            "nMMMMMMMMMMMMMMM",
            "nvMv++M+vvMv++M+",
            "nvMvvvMvvvMvvvMv",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvvvMvvvMvvvMv",
            "nvMv++M+vvMv++M+",
            "nvMv++M+vvMv++M+",
            "nMMMMMMMMMMMMMMM",
            "nvMv++M+vvMv++M+",
        ],
    },
    Ept {
        what: "fetch from a user-mode address",
        execute_only: true,
        access: USER_FETCH,
        user_page: true,
        cells: &[
            "nnMnnnMnnnMnnnMn",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvvvMvvvMvvvMv",
            "nvMvvvMvvvMvvvMv",
            "nvMvvvMvvvMvvvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvvvMvvvMvvvMv",
            "nvMvvvMv++M+++M+",
            "nvMvvvMv++M+++M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvvvMv++M+++M+",
            "nvMvvvMv++M+++M+",
            "nvMvvvMv++M+++M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvvvMv++M+++M+",
        ],
    },
    Ept {
        what: "data read",
        execute_only: false,
        access: READ,
        user_page: false,
        cells: &[
            "nnMnMnMnMnMnMnMn",
            "n+M+M+M+M+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+M+M+M+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+M+M+M+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+M+M+M+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+M+M+M+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+M+M+M+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+M+M+M+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "n+M+M+M+M+M+M+M+",
        ],
    },
    Ept {
        what: "data write",
        execute_only: false,
        access: WRITE,
        user_page: false,
        cells: &[
            "nnMnMnMnMnMnMnMn",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+MvM+MvM+MvM+",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+MvM+MvM+MvM+",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+MvM+MvM+MvM+",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvM+MvM+MvM+MvM+",
        ],
    },
    Ept {
        what: "fetch from a supervisor-mode address",
        execute_only: false,
        access: FETCH,
        user_page: false,
        cells: &[
            "nnMnMnMnMnMnMnMn",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvM+M+MvMvM+M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvM+M+MvMvM+M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvM+M+MvMvM+M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvM+M+MvMvM+M+",
        ],
    },
    Ept {
        what: "fetch from a user-mode address",
        execute_only: false,
        access: USER_FETCH,
        user_page: true,
        cells: &[
            "nnMnMnMnMnMnMnMn",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvMvMvMvMv",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvM+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvM+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvM+M+M+M+",
            "nMMMMMMMMMMMMMMM",
            "nvMvMvMvM+M+M+M+",
        ],
    },
];

/// A guest table while accessed and dirty flags for EPT are off: it is read.
const TABLE_IS_READ: [&str; 8] =
    ["nnMnnnMn", "n+M+v+M+", "nMMMMMMM", "n+M+v+M+", "nvMvvvMv", "n+M+v+M+", "nMMMMMMM", "n+M+v+M+"];

/// A guest table while they are on: it is written to.
const TABLE_IS_WRITTEN: [&str; 8] =
    ["nnMnnnMn", "nvMvvvMv", "nMMMMMMM", "nvM+vvM+", "nvMvvvMv", "nvMvvvMv", "nMMMMMMM", "nvM+vvM+"];

struct Npt {
    controls: &'static str,
    accesses: &'static [Access],
    /// Bits 31:0 of EXITINFO1.
    code: u64,
    cells: [&'static str; 8],
}

const NESTED: &[Npt] = &[
    Npt {
        controls: "",
        accesses: &[USER_READ, READ],
        code: 0b101,
        cells: ["........", "........", "..++..++", "..++..++", "........", "........", "..++..++", "..++..++"],
    },
    Npt {
        controls: "",
        accesses: &[USER_WRITE, WRITE],
        code: 0b111,
        cells: ["........", "........", "........", "...+...+", "........", "........", "........", "...+...+"],
    },
    Npt {
        controls: "",
        accesses: &[USER_FETCH, FETCH],
        code: 0b1_0101,
        cells: ["........", "........", "........", "........", "........", "........", "......++", "......++"],
    },
    Npt {
        controls: "GMET",
        accesses: &[USER_READ],
        code: 0b101,
        cells: ["++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++"],
    },
    Npt {
        controls: "GMET",
        accesses: &[READ],
        code: 0b001,
        cells: ["++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++", "++++++++"],
    },
    Npt {
        controls: "GMET",
        accesses: &[USER_WRITE],
        code: 0b111,
        cells: ["........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+"],
    },
    Npt {
        controls: "GMET",
        accesses: &[WRITE],
        code: 0b011,
        cells: ["........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+", "........", ".+.+.+.+"],
    },
    Npt {
        controls: "GMET",
        accesses: &[USER_FETCH],
        code: 0b1_0101,
        cells: ["........", "........", "........", "........", "....++++", "....++++", "....++++", "....++++"],
    },
    Npt {
        controls: "GMET",
        accesses: &[FETCH],
        code: 0b1_0001,
        cells: ["........", "........", "........", "........", "....++++", "....++++", "....++..", "....++.."],
    },
    Npt {
        controls: "SSS",
        accesses: &[SHADOW_READ],
        code: 0b100_0101,
        cells: [".+.+.+.+", ".+.+.+.+", "........", "........", "........", "........", "........", "........"],
    },
    Npt {
        controls: "SSS",
        accesses: &[SHADOW_WRITE],
        code: 0b100_0111,
        cells: [".+.+.+.+", ".+.+.+.+", "........", "........", "........", "........", "........", "........"],
    },
    Npt {
        controls: "SSS",
        accesses: &[READ, USER_READ],
        code: 0b101,
        cells: ["...+...+", "...+...+", "..++..++", "..++..++", "........", "........", "..++..++", "..++..++"],
    },
    Npt {
        controls: "SSS",
        accesses: &[WRITE, USER_WRITE],
        code: 0b111,
        cells: ["........", "...+...+", "........", "...+...+", "........", "........", "........", "...+...+"],
    },
    Npt {
        controls: "SSS",
        accesses: &[FETCH, USER_FETCH],
        code: 0b1_0101,
        cells: ["........", "........", "........", "........", "........", "........", "......++", "......++"],
    },
    Npt {
        controls: "",
        accesses: &[SHADOW_WRITE],
        code: 0b100_0111,
        cells: ["........", "........", "........", "...+...+", "........", "........", "........", "...+...+"],
    },
];

/// A guest table is written to by the user.
const NESTED_TABLE: [&str; 8] =
    ["........", "........", "........", "...+...+", "........", "........", "........", "...+...+"];

/// A guest table under read-only guest page tables, while no flag is to be set.
const NESTED_READ_ONLY_TABLE: [&str; 8] =
    ["........", "........", "..++..++", "..++..++", "........", "........", "..++..++", "..++..++"];

/// A 4-level guest, whose page table and page lie at [`TABLE`] and [`PAGE`], on tables of the second dimension.
struct World {
    ram: FlatRam,
    guest: Paging,
    root: u64,
    /// Addresses of the second dimension's entries, level 1 first.
    page: Vec<u64>,
    table: Vec<u64>,
}

/// `leaf_bits` are those of a second dimension's entry that maps a page, `upper_bits` of one that does not.
fn world(guest_leaf: u64, upper_bits: u64, leaf_bits: u64) -> World {
    let ram = FlatRam::new(0x3_0000);
    let builder = Builder::new(&ram, 0x1_0000);
    let guest_root = builder.table();
    let upper = builder.map(guest_root, 4, GVA, TABLE, 2, 0x27, 0x27);
    ram.set(TABLE_HPA + (GVA >> 9 & 0xff8), PAGE | guest_leaf);
    let root = builder.table();
    for table in upper.iter().map(|at| at & !0xfff) {
        builder.map(root, 4, table, table, 1, upper_bits, leaf_bits);
    }
    let table = builder.map(root, 4, TABLE, TABLE_HPA, 1, upper_bits, leaf_bits);
    let page = builder.map(root, 4, PAGE, PAGE_HPA, 1, upper_bits, leaf_bits);
    let (cr0, efer) = (Cr0::PE | Cr0::PG | Cr0::WP, Efer::LME | Efer::NXE);
    let guest = Paging::new(cr0, guest_root, Cr4::PAE, efer, &PagingSupport::new(46));
    World { ram, guest, root, page, table }
}

impl World {
    /// Puts rights into an entry of level 1 and into one of the given level.
    fn set(&self, at: &[u64], mask: u64, leaf: u64, level: usize, upper: u64) {
        self.ram.set(at[0], self.ram.get(at[0]) & !mask | leaf);
        self.ram.set(at[level], self.ram.get(at[level]) & !mask | upper);
    }

    fn walk<S: SecondDimension>(&self, second: &S, access: Access) -> Result<Translation, Failure> {
        walk(&self.ram, &self.guest, second, Gva(GVA), access)
    }
}

/// Bits 2:0 and 10 of a combination.
const fn ept_bits(combination: usize) -> u64 {
    let combination = combination as u64;
    combination & 7 | (combination & 8) << 7
}

/// Walks a table of EPT rights; `purpose` is that of the page or of the guest's table.
fn ept_grid(
    cells: &[&str],
    mode_based: bool,
    execute_only: bool,
    access: Access,
    guest_leaf: u64,
    flags: u64,
    of_table: bool,
) {
    let controls = EptControls { mode_based_execute: mode_based, ..EptControls::default() };
    let support = EptSupport { execute_only, ..EptSupport::new(46) };
    for (leaf, row) in cells.iter().enumerate() {
        for (upper, cell) in row.bytes().enumerate() {
            for level in 1..4 {
                let world = world(guest_leaf, 0x407, 0x437);
                let at = if of_table { &world.table } else { &world.page };
                world.set(at, 0x407, ept_bits(leaf), level, ept_bits(upper));
                let ept = softvirt_ept::Ept::new(world.root | 0x1e | flags, controls, &support);
                let answer = world.walk(&ept, access);
                let case =
                    format!("leaf {leaf:04b} upper {upper:04b} at level {} flags {flags:#x} {access:?}", level + 1);
                let event = match answer {
                    Ok(found) => {
                        assert_eq!(found.hpa, Hpa(PAGE_HPA), "{case}");
                        None
                    }
                    Err(failure) => {
                        let gpa = if of_table { TABLE | GVA >> 9 & 0xff8 } else { PAGE };
                        assert_eq!(failure.gpa, Gpa(gpa), "{case}");
                        failure.ept_event(&ept, access)
                    }
                };
                let access_bits = match access.operation {
                    _ if of_table && flags != 0 => 3,
                    _ if of_table => 1,
                    Operation::Read => 1,
                    Operation::Write => 2,
                    Operation::Fetch => 4,
                };
                let both = ept_bits(leaf) & ept_bits(upper);
                let rights = (both & 7) << 3 | if mode_based { both >> 10 << 6 } else { 0 };
                let found = event.map(|event| match event {
                    EptEvent::Violation { qualification, .. } => Some(qualification & 0x1ff),
                    EptEvent::Misconfiguration => None,
                    other => panic!("{other:?} {case}"),
                });
                let final_page = if of_table { 0x80 } else { 0x180 };
                let expected = match cell {
                    b'+' => None,
                    b'M' => Some(None),
                    b'n' => Some(Some(final_page | access_bits)),
                    b'v' => Some(Some(final_page | access_bits | rights)),
                    _ => unreachable!("no such cell"),
                };
                assert_eq!(found, expected, "{case}");
                let dirty = if access.is_write() || of_table { 0x200 } else { 0 };
                if expected.is_none() && flags != 0 {
                    assert_eq!(world.ram.get(at[0]) & 0x300, 0x100 | dirty, "{case}");
                    assert!(at[1..].iter().all(|at| world.ram.get(*at) & 0x300 == 0x100), "{case}");
                } else {
                    assert!(at.iter().all(|at| world.ram.get(*at) & 0x300 == 0), "{case}");
                }
            }
        }
    }
}

#[test]
fn ept_rights() {
    for table in PLAIN {
        println!("{}", table.what);
        for flags in [0, 0x40] {
            let leaf = if table.user_page { 0x67 } else { 0x63 };
            ept_grid(table.cells, false, table.execute_only, table.access, leaf, flags, false);
        }
    }
}

#[test]
fn ept_rights_with_mode_based_execute_control() {
    for table in MODE_BASED {
        println!("{}", table.what);
        for flags in [0, 0x40] {
            let leaf = if table.user_page { 0x67 } else { 0x63 };
            ept_grid(table.cells, true, table.execute_only, table.access, leaf, flags, false);
        }
    }
}

#[test]
fn ept_rights_to_a_guest_table_depend_on_the_accessed_and_dirty_flags() {
    // The guest's entries have their flags already.
    for access in [USER_READ, USER_WRITE, USER_FETCH] {
        ept_grid(&TABLE_IS_READ, false, true, access, 0x67, 0, true);
        ept_grid(&TABLE_IS_WRITTEN, false, true, access, 0x67, 0x40, true);
    }
}

/// What a combination puts into a nested entry.
fn npt_bits(combination: usize) -> u64 {
    let combination = combination as u64;
    (combination & 1) << 1 | (combination & 2) << 1 | (!combination & 4) << 61
}

fn npt_grid(cells: &[&str; 8], controls: NptControls, access: Access, code: u64, of_table: bool) {
    for (leaf, row) in cells.iter().enumerate() {
        for (upper, cell) in row.bytes().enumerate() {
            for level in 1..4 {
                // A supervisor's access is one to a supervisor's page; a shadow-stack access to a shadow stack.
                let guest_leaf = match (access.shadow_stack, access.is_user()) {
                    (true, _) => 0x61,
                    (false, true) => 0x67,
                    (false, false) => 0x63,
                };
                let world = world(guest_leaf, 7, 7);
                let at = if of_table { &world.table } else { &world.page };
                world.set(at, 6 | 1 << 63, npt_bits(leaf), level, npt_bits(upper));
                let (cr0, efer) = (Cr0::PE | Cr0::PG | Cr0::WP, Efer::LME | Efer::NXE);
                let host = Paging::new(cr0, world.root, Cr4::PAE, efer, &PagingSupport::new(46));
                let npt = Nested::new(host, controls);
                let case = format!("leaf {leaf:03b} upper {upper:03b} at level {} {controls:?} {access:?}", level + 1);
                let found = world.walk(&npt, access).map(|found| found.hpa).map_err(|failure| {
                    // Bit 37 marks a page that is a shadow stack in the nested tables; it has tests of its own.
                    failure.npf_exit_info_1(&npt, access).map(|info| info & !(1 << 37))
                });
                let place = if of_table { 1 << 33 } else { 1 << 32 };
                let expected = if cell == b'+' { Ok(Hpa(PAGE_HPA)) } else { Err(Some(code | place)) };
                assert_eq!(found, expected, "{case}");
                let written = if of_table { !controls.read_only_guest_tables } else { access.is_write() };
                let flags = match (cell, written) {
                    (b'+', true) => 0x60,
                    (b'+', false) => 0x20,
                    _ => 0,
                };
                assert_eq!(world.ram.get(at[0]) & 0x60, flags, "{case}");
            }
        }
    }
}

#[test]
fn nested_rights() {
    for table in NESTED {
        let controls = NptControls {
            gmet: table.controls == "GMET",
            supervisor_shadow_stack: table.controls == "SSS",
            read_only_guest_tables: false,
        };
        for access in table.accesses {
            npt_grid(&table.cells, controls, *access, table.code, false);
        }
    }
}

#[test]
fn nested_rights_to_a_guest_table() {
    let read_only = NptControls { read_only_guest_tables: true, ..NptControls::default() };
    for access in [USER_READ, USER_WRITE, USER_FETCH, READ] {
        npt_grid(&NESTED_TABLE, NptControls::default(), access, 0b111, true);
        npt_grid(&NESTED_READ_ONLY_TABLE, read_only, access, 0b101, true);
    }
}
