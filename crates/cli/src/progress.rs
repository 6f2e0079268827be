//! Progress of long work, on a terminal only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on stderr that counts bytes towards `total`, with `label` in front. Silent when stderr is
/// no terminal or `quiet`.
pub(crate) fn bar(label: &str, total: u64, quiet: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), target(quiet));
    let style = ProgressStyle::with_template(
        "{prefix:<12} {bar:32.cyan/dim} {bytes:>10} of {total_bytes}  {binary_bytes_per_sec}  {eta}",
    )
    .expect("the template is a literal that parses")
    .progress_chars("━━─");
    bar.set_style(style);
    bar.set_prefix(label.to_string());
    bar
}

/// A spinner with bytes and rate, for work whose size is not known beforehand.
pub(crate) fn spinner(label: &str, quiet: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target(quiet));
    let style = ProgressStyle::with_template("{prefix:<12} {spinner} {bytes:>10}  {binary_bytes_per_sec}  {msg}")
        .expect("the template is a literal that parses");
    bar.set_style(style);
    bar.set_prefix(label.to_string());
    bar
}

fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet || !std::io::stderr().is_terminal() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}
