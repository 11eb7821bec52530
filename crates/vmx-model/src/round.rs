//! How does any state become one that enters? By mending broken rules until none is left.

use crate::rules::{Violations, check_entry};
use crate::state::EntryState;

/// Passes after which [`round_to_valid`] gives up. A mend changes only what stands at its own stage of the entry or later, so that few are needed.
pub const MAX_PASSES: u32 = 12;

/// Mends a state, rule by rule in the manual's order, until nothing is broken. Returns the number of passes that changed something.
///
/// The processor is not changed: a state is rounded to one that enters *there*. Rules that nobody can decide, because the profile does not
/// know a capability, are left alone.
///
/// # Errors
/// The violations that remain after [`MAX_PASSES`]; that would be a defect of the rule table.
#[expect(
    clippy::result_large_err,
    reason = "without allocation there is no box, and the error is a defect that nobody meets twice"
)]
pub fn round_to_valid(state: &mut EntryState) -> Result<u32, Violations> {
    for pass in 0..MAX_PASSES {
        let violations = check_entry(state);
        if violations.none_broken() {
            return Ok(pass);
        }
        for rule in violations.broken() {
            (rule.row().mends)(state);
        }
    }
    let violations = check_entry(state);
    if violations.none_broken() { Ok(MAX_PASSES) } else { Err(violations) }
}
