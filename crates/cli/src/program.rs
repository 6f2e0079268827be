//! One `main` for all programs: parse, run, print, exit status.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;
use types::{Code, Error};

use crate::daos::Daos;
use crate::daos_server::DaosServer;
use crate::ddb::Ddb;
use crate::dmg::Dmg;
use crate::failure::{Failure, Result};
use crate::manual;
use crate::options::PrintOptions;
use crate::output::{self, Outcome};

/// Which of the programs to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Daos,
    Dmg,
    DaosServer,
    Ddb,
}

impl Program {
    pub(crate) const ALL: [Program; 4] = [Program::Daos, Program::Dmg, Program::DaosServer, Program::Ddb];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Program::Daos => "daos",
            Program::Dmg => "dmg",
            Program::DaosServer => "daos_server",
            Program::Ddb => "ddb",
        }
    }

    /// The whole flag table of the program.
    pub(crate) fn command(self) -> clap::Command {
        match self {
            Program::Daos => Daos::command(),
            Program::Dmg => Dmg::command(),
            Program::DaosServer => DaosServer::command(),
            Program::Ddb => Ddb::command(),
        }
    }

    /// The program that argument zero names, if it names one of ours. So one file, linked under
    /// other names, is all of them; `daos quickstart --server` needs nothing else installed.
    fn from_argument(zero: Option<&OsString>) -> Option<Program> {
        let name = Path::new(zero?).file_name()?.to_str()?;
        Program::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// Log filter by default: a client is silent unless something is wrong, a server tells its life. The library for consensus
/// would tell each message that it could not send to a server that is down, fifty times a second.
const CLIENT_LOG: &str = "warn";
const SERVER_LOG: &str = "info,openraft=error";
/// An inspector says in its answer what is wrong.
const INSPECTOR_LOG: &str = "off";
/// Ours at length, other people's crates still quiet.
const DEBUG_LOG: &str = "debug,openraft=error";
/// Overrides both, in `tracing`'s filter language.
const LOG_VARIABLE: &str = "DAOS_LOG";

/// Runs the program that argument zero names, else `otherwise`.
pub fn main(otherwise: Program) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let program = Program::from_argument(arguments.first()).unwrap_or(otherwise);
    let status = match program {
        Program::Daos => with::<Daos>(&arguments, |c| &c.print, CLIENT_LOG, |c| rt::block_on(c.run())),
        Program::Dmg => with::<Dmg>(&arguments, |c| &c.print, CLIENT_LOG, |c| rt::block_on(c.run())),
        Program::DaosServer => with::<DaosServer>(&arguments, |c| &c.print, SERVER_LOG, DaosServer::run),
        Program::Ddb => with::<Ddb>(&arguments, |c| &c.print, INSPECTOR_LOG, Ddb::run),
    };
    ExitCode::from(status)
}

fn with<C: Parser>(
    arguments: &[OsString],
    print: fn(&C) -> &PrintOptions,
    log: &str,
    run: impl FnOnce(C) -> Result<Outcome>,
) -> u8 {
    let command = match C::try_parse_from(arguments) {
        Ok(command) => command,
        Err(error) => return misunderstood(&error, arguments),
    };
    let PrintOptions { json, debug } = *print(&command);
    start_log(if debug { DEBUG_LOG } else { log });
    output::finish(without_panic(debug, || run(command)), json)
}

/// Runs `work`; a panic in it, always a bug of ours, becomes a failure like any other.
fn without_panic(debug: bool, work: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
    let said = Arc::new(Mutex::new(String::new()));
    let hook_said = said.clone();
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(mut said) = hook_said.lock()
            && said.is_empty()
        {
            *said = panic.to_string().replace('\n', " ");
        }
        if debug {
            default(panic);
        }
    }));
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let cause = said.lock().map(|said| said.clone()).unwrap_or_default();
        let error = Error::new(Code::Misc, format!("a bug in this program: {cause}"));
        Err(error.remedy("please report it, with what --debug shows").into())
    })
}

/// Help and version go to stdout and are no failure; anything else is status 2.
fn misunderstood(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let json = arguments.iter().any(|a| a == "--json" || a == "-j");
    if error.use_stderr() && json {
        let failure = Error::new(Code::Invalid, cause(&error.to_string())).remedy("see --help");
        return output::finish(Err(Failure::Usage(failure)), true);
    }
    // A reader of the help that went away is nobody's failure.
    let _ = error.print();
    if error.use_stderr() { 2 } else { 0 }
}

/// What the parser says is wrong, on one line: its first paragraph, of which all but the first line are a list.
fn cause(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_string();
    let list: Vec<&str> = lines.collect();
    if list.is_empty() { first } else { format!("{first} {}", list.join(", ")) }
}

fn start_log(default: &str) {
    let filter = std::env::var(LOG_VARIABLE).ok().and_then(|text| EnvFilter::try_new(text).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    let at_start = filter.to_string();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .with_filter_reloading();
    let filter = log.reload_handle();
    rt::log::install(Box::new(move |text| {
        let wanted = if text.is_empty() { &at_start } else { text };
        let wanted = EnvFilter::try_new(wanted).map_err(|error| error.to_string())?;
        filter.reload(wanted).map_err(|error| error.to_string())
    }));
    log.init();
}

/// `version` of any of the programs.
pub(crate) fn version(program: Program) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let response = serde_json::json!({ "name": program.name(), "version": version });
    Outcome::new(response, format!("{} version {version}", program.name()))
}

/// The hidden commands every program has.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum ManualVerb {
    /// Print completions for a shell
    #[command(hide = true)]
    Completion {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Write man pages, one a command
    #[command(hide = true)]
    Manpage {
        /// Directory to write them to
        #[arg(short, long, value_name = "DIR")]
        output: std::path::PathBuf,
    },
}

impl ManualVerb {
    pub(crate) fn run(self, program: Program) -> Result<Outcome> {
        match self {
            ManualVerb::Completion { shell } => manual::completion(program, shell),
            ManualVerb::Manpage { output } => manual::pages(program, &output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_tables_hold_together() {
        for program in Program::ALL {
            program.command().debug_assert();
        }
    }

    /// It ended after the colon, so that a program was not told what it had left out.
    #[test]
    fn what_is_missing_is_named_on_one_line() {
        let missing = Program::Dmg.command().try_get_matches_from(["dmg", "pool", "create", "--json"]).unwrap_err();
        let said = cause(&missing.to_string());
        assert_eq!(said, "the following required arguments were not provided: --size <SIZE>, <LABEL>");
        let unknown = Program::Dmg.command().try_get_matches_from(["dmg", "pool", "lsit"]).unwrap_err();
        assert_eq!(cause(&unknown.to_string()), "unrecognized subcommand 'lsit'");
    }

    #[test]
    fn argument_zero_chooses_the_program() {
        for (zero, program) in [
            ("/usr/bin/dmg", Some(Program::Dmg)),
            ("daos_server", Some(Program::DaosServer)),
            ("./target/release/daos", Some(Program::Daos)),
            ("ddb", Some(Program::Ddb)),
            ("cli-0123abcd", None),
        ] {
            assert_eq!(Program::from_argument(Some(&zero.into())), program, "{zero}");
        }
    }
}
