//! The only place that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::Write;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;
use crate::text;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; keys and their order are stable.
    Json,
    /// For people who edit.
    Yaml,
}

/// What a verb answers: text for stdout, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Written to stdout as it is, with a line end.
    pub text: String,
    /// The exit code: 0 good, 1 bad; `lab exec` passes on its command's.
    pub exit: u8,
}

impl Format {
    /// Writes a value in this format; `table` is used for people.
    pub fn render<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<String, Failure> {
        let unwritable = |error: String| {
            Failure::bad("internal", format!("the answer cannot be written as {self:?}: {error}"))
                .fix("use -o json, and report this as a bug")
        };
        match self {
            Format::Table => Ok(table(value)),
            Format::Json => serde_json::to_string_pretty(value).map_err(|e| unwritable(e.to_string())),
            Format::Yaml => {
                let text = serde_saphyr::to_string(value).map_err(|e| unwritable(e.to_string()))?;
                Ok(text.trim_end().to_string())
            }
        }
    }
}

/// Prints an answer; its exit code.
pub fn answer(answer: Answer) -> ExitCode {
    if !answer.text.is_empty() {
        line(&answer.text);
    }
    ExitCode::from(answer.exit)
}

/// Prints a line to stdout at once. A reader that went away (`| head`) is no error.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a remark to stderr, where it does not disturb a pipe.
pub fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints what went wrong and what mends it to stderr; its exit code.
pub fn failure(format: Format, failure: &Failure) -> ExitCode {
    #[derive(Serialize)]
    struct Wrapped<'a> {
        error: &'a Failure,
    }
    let people = |w: &Wrapped<'_>| {
        let lines: Vec<String> = w.error.message.lines().map(text::plain).collect();
        format!(
            "error: {} ({})\n  fix: {}",
            lines.join("\n"),
            text::plain(&w.error.code),
            text::plain(&w.error.fix)
        )
    };
    match format.render(&Wrapped { error: failure }, people) {
        Ok(text) => remark(&text),
        Err(worse) => remark(&worse.message),
    }
    ExitCode::from(failure.class.exit_code())
}
