//! Shell completions and man pages, from the same flag tables as the parsers.

use std::path::Path;

use serde_json::json;

use crate::failure::{self, Result};
use crate::output::Outcome;
use crate::program::Program;

/// Prints the completion script of `program` for `shell`.
pub(crate) fn completion(program: Program, shell: clap_complete::Shell) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program.command(), program.name(), &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    Ok(Outcome::new(json!({ "script": script }), script))
}

/// Writes a man page for `program` and for each of its commands into `directory`: `daos.1`,
/// `daos-pool-query.1`.
pub(crate) fn pages(program: Program, directory: &Path) -> Result<Outcome> {
    std::fs::create_dir_all(directory).map_err(|e| failure::local("create", directory, &e))?;
    let command = program.command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, directory).map_err(|e| failure::local("write man pages to", directory, &e))?;
    let text = format!("man pages of {} written to {}", program.name(), directory.display());
    Ok(Outcome::new(json!({ "directory": directory.display().to_string() }), text))
}
