//! What has an image printed? Lines such as `PASS: ...`, counted as they come, in bounded memory.

use serde::Serialize;
use std::collections::VecDeque;

/// How many failures are kept word for word.
const KEPT_FAILURES: usize = 24;
/// How many of the last lines are kept.
const KEPT_LINES: usize = 40;
/// How many characters of a line are kept.
const LINE: usize = 400;

/// The serial output of one run, digested.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Output {
    /// Checks that passed.
    pub(super) passed: u64,
    /// Checks that failed.
    pub(super) failed: u64,
    /// Checks that were skipped.
    pub(super) skipped: u64,
    /// The first checks that failed.
    pub(super) failures: Vec<String>,
    /// What was skipped first, or why.
    pub(super) skips: Vec<String>,
    /// The last lines.
    pub(super) last_lines: VecDeque<String>,
    #[serde(skip)]
    line: Vec<u8>,
}

impl Output {
    /// Takes one byte.
    pub(super) fn byte(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => {}
            _ if self.line.len() < LINE => self.line.push(byte),
            _ => {}
        }
    }

    /// The line is at its end.
    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        // "XPASS" is an unexpected pass of something known to fail; "XFAIL" a failure that is expected.
        if line.starts_with("PASS: ") || line.starts_with("XFAIL: ") {
            self.passed += 1;
        } else if line.starts_with("FAIL: ") || line.starts_with("XPASS: ") {
            self.failed += 1;
            if self.failures.len() < KEPT_FAILURES {
                self.failures.push(line.clone());
            }
        } else if line.starts_with("SKIP: ") {
            self.skipped += 1;
            if self.skips.len() < KEPT_FAILURES {
                self.skips.push(line.clone());
            }
        }
        if self.last_lines.len() == KEPT_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    /// Nothing more will come.
    pub(super) fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_counted_and_failures_kept() {
        let mut output = Output::default();
        for byte in b"PASS: a\r\nFAIL: b\r\nSKIP: c\r\nXFAIL: d\r\nXPASS: e\r\nremark FAIL: f\r\nlast" {
            output.byte(*byte);
        }
        output.finish();
        assert_eq!((output.passed, output.failed, output.skipped), (2, 2, 1));
        assert_eq!(output.failures, ["FAIL: b", "XPASS: e"]);
        assert_eq!(output.last_lines.back().map(String::as_str), Some("last"));
    }

    #[test]
    fn endless_output_is_bounded() {
        let mut output = Output::default();
        for n in 0..1_000_000u32 {
            output.byte(if n % 5000 == 0 { b'\n' } else { b'F' });
        }
        assert!(output.last_lines.len() <= KEPT_LINES);
        assert!(output.last_lines.iter().all(|line| line.len() <= LINE));
    }
}
