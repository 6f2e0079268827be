//! Golden bytes: what version 1 of each durable format looks like, kept under `golden/v1`.

use std::path::PathBuf;

/// Compares `bytes` with the golden file `name`. `GOLDEN=write cargo test -p raft` writes missing ones.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(format!("{name}.hex"));
    let text: String = bytes
        .chunks(16)
        .map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    if std::env::var_os("GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("no golden file {}", path.display()));
    assert_eq!(golden, text, "{name}: the format changed; a change needs a new version");
}
