//! libFuzzer around the target named by `FUZZ_TARGET`.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    fuzz::target(&name).unwrap_or_else(|| panic!("no fuzz target `{name}`"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
