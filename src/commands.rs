//! What do all subcommands share? Formats, exit codes, printing, suggestions.

pub(crate) mod bench;
pub(crate) mod conformance;
pub(crate) mod cpu;
pub(crate) mod exits;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod image;
pub(crate) mod layout;
pub(crate) mod lint_ept;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod tables;
pub(crate) mod walk;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people; coloured on a terminal
    Text,
    /// JSON for programs
    Json,
}

/// What a subcommand has to say.
pub(crate) struct Answer {
    /// Text with ANSI styles, which are removed where nobody can see them.
    pub(crate) text: String,
    /// Was something found that is wrong: exit code 1?
    pub(crate) found: bool,
    /// The exit code, if it says more than that.
    pub(crate) status: Option<u8>,
}

impl Answer {
    /// An answer that finds nothing wrong.
    pub(crate) fn fine(text: String) -> Self {
        Self { text, found: false, status: None }
    }

    /// The same with an exit code of its own.
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status: Some(status), ..self }
    }

    /// A value as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Result<Self, Failure> {
        match serde_json::to_string_pretty(value) {
            Ok(text) => Ok(Self::fine(text + "\n")),
            Err(error) => Err(Failure(error.to_string())),
        }
    }
}

/// Bad use or unreadable input: exit code 2.
pub(crate) struct Failure(pub(crate) String);

/// Prints and gives the exit code. A reader that stops reading, such as `head`, is no error.
pub(crate) fn finish(answer: Result<Answer, Failure>) -> ExitCode {
    match answer {
        Ok(answer) => {
            let mut out = anstream::stdout().lock();
            match out.write_all(answer.text.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    finish(Err(Failure(format!("cannot write the answer: {error}"))))
                }
                _ => ExitCode::from(answer.status.unwrap_or(u8::from(answer.found))),
            }
        }
        Err(Failure(message)) => {
            const BAD: Style = AnsiColor::Red.on_default().bold();
            // Nothing is left to do if standard error cannot be written to.
            let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {message}");
            ExitCode::from(2)
        }
    }
}

/// "nothing is called so", with the nearest names.
pub(crate) fn unknown(what: &str, given: &str, names: impl Iterator<Item = &'static str>) -> Failure {
    let given_lower = given.to_lowercase();
    // A name that is longer than what was given may go on as it likes: "gust.gdtr" is near "guest.gdtr.limit_high".
    let likeness = |name: &str| {
        let start: String = name.chars().take(given_lower.chars().count() + 1).collect();
        strsim::normalized_damerau_levenshtein(&given_lower, &start)
    };
    let mut near: Vec<(f64, &str)> = names.map(|name| (likeness(name), name)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> = near.into_iter().take(3).filter(|(score, _)| *score > 0.6).map(|(_, name)| name).collect();
    let hint = match near.as_slice() {
        [] => String::new(),
        near => format!("; did you mean {}?", near.join(", ")),
    };
    Failure(format!("no {what} is called or contains \"{given}\"{hint}"))
}
