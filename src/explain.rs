//! Why did this VM entry fail? From a dump to a report: every broken rule, what depends on the processor, what nobody can tell.
//!
//! The flow: a dump becomes a partial view for each processor (`view`); all rules answer; the answers of all processors together decide what
//! is an accusation and what is not (`judge`); the report is plain data that [`render()`] prints and serde writes as JSON.

mod judge;
mod live;
mod render;
mod report;
mod view;
mod words;

pub use judge::explain;
pub use live::{broken_rules, explain_entry};
pub use render::{Detail, render, render_entry};
pub use report::{Conditional, Event, FieldWords, Report, RuleReport, Undecided, Verdict};
