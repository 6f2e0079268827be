//! The `ddb` program; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(cli::Program::Ddb)
}
