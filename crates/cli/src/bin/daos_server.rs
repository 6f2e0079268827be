//! The `daos_server` program; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(cli::Program::DaosServer)
}
