//! What a command says: a JSON response for programs, text for people.
//!
//! The envelope is upstream's: `{"response": ..., "error": null | string, "status": 0 | -DER}`,
//! indented, one object a run; of a command that watches, one object a line.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;
use types::Error;

use crate::failure::{self, Failure, Result};

/// A finished command.
pub(crate) struct Outcome {
    /// What goes under `response`.
    pub(crate) response: Value,
    /// What a person reads; empty when the command wrote to stdout itself.
    pub(crate) text: String,
    /// The last of several that a command said, each on a line of its own.
    pub(crate) is_line: bool,
    /// The command did its work, and the work was to find out that something is wrong: status 1, with the
    /// response.
    pub(crate) fault: Option<Error>,
}

impl Outcome {
    pub(crate) fn new(response: impl Serialize, text: impl Into<String>) -> Outcome {
        let response = serde_json::to_value(response).expect("responses are plain structs with string keys");
        Outcome { response, text: text.into(), is_line: false, fault: None }
    }

    /// The last of several responses, each on a line of its own.
    pub(crate) fn on_a_line(self) -> Outcome {
        Outcome { is_line: true, ..self }
    }

    /// Says that something is wrong, beside the response.
    pub(crate) fn with_fault(self, fault: Option<Error>) -> Outcome {
        Outcome { fault, ..self }
    }
}

/// Writes `bytes` to stdout as they are.
pub(crate) fn write_raw(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes.as_ref()).and_then(|()| out.flush()).map_err(failure::stdout)
}

/// Prints the end of a command and returns the exit status.
pub(crate) fn finish(result: Result<Outcome>, json: bool) -> u8 {
    let mut fault = None;
    let (status, envelope, text) = match result {
        Ok(Outcome { response, is_line: true, fault: None, .. }) if json => (0, line(&response), None),
        Ok(Outcome { response, fault, .. }) if json => {
            (u8::from(fault.is_some()), envelope(response, fault.as_ref()), None)
        }
        Ok(outcome) => {
            fault = outcome.fault;
            (0, String::new(), Some(outcome.text))
        }
        Err(Failure::ReaderGone) => return 0,
        Err(Failure::Usage(error)) if json => (2, envelope(Value::Null, Some(&error)), None),
        Err(Failure::Failed(error)) if json => (1, envelope(Value::Null, Some(&error)), None),
        Err(Failure::Usage(error)) => return complain(&error, 2),
        Err(Failure::Failed(error)) => return complain(&error, 1),
    };
    let mut printed = text.unwrap_or(envelope);
    if !printed.is_empty() && !printed.ends_with('\n') {
        printed.push('\n');
    }
    match write_raw(printed.as_bytes()) {
        Ok(()) | Err(Failure::ReaderGone) => fault.map_or(status, |fault| complain(&fault, 1)),
        Err(Failure::Usage(error) | Failure::Failed(error)) => complain(&error, 1),
    }
}

/// Field order is upstream's.
#[derive(Serialize)]
struct Envelope {
    response: Value,
    error: Option<String>,
    status: i32,
}

/// A response of a command that says several, on one line.
pub(crate) fn line(response: &Value) -> String {
    let envelope = Envelope { response: response.clone(), error: None, status: 0 };
    serde_json::to_string(&envelope).expect("a JSON value prints") + "\n"
}

fn envelope(response: Value, error: Option<&Error>) -> String {
    let text = error.map(|e| match &e.remedy {
        Some(remedy) => format!("{}: {remedy}", e.message),
        None => e.message.clone(),
    });
    let status = error.map_or(0, Error::status);
    serde_json::to_string_pretty(&Envelope { response, error: text, status }).expect("a JSON value prints")
}

/// Says what went wrong on stderr: `error: cause`, `remedy: what to do`.
fn complain(error: &Error, status: u8) -> u8 {
    let (red, cyan, plain) = if colours() { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    let mut lines = format!("{red}error:{plain} {} ({})\n", error.message.trim_end(), error.code.symbol());
    if let Some(remedy) = &error.remedy {
        for line in remedy.lines() {
            lines.push_str(&format!("{cyan}remedy:{plain} {line}\n"));
        }
    }
    // Nobody can be told that stderr is gone.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
    status
}

fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use types::Code;

    use super::*;

    #[test]
    fn the_envelope_is_upstreams() {
        let ok: Value = serde_json::from_str(&envelope(json!({"a": 1}), None)).unwrap();
        assert_eq!(ok, json!({"response": {"a": 1}, "error": null, "status": 0}));
        let error = Error::new(Code::NotFound, "no pool 'tank'").remedy("list pools with `daos pool list`");
        let failed: Value = serde_json::from_str(&envelope(Value::Null, Some(&error))).unwrap();
        assert_eq!(
            failed,
            json!({"response": null, "error": "no pool 'tank': list pools with `daos pool list`", "status": -1005})
        );
    }
}
