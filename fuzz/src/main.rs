//! Fuzzes one of the readers of `tests/suite/untrusted.rs`, the one that `$READER` names.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/suite/untrusted.rs"]
#[allow(dead_code, unused_imports)]
mod untrusted;

static READ: OnceLock<untrusted::Read> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let read = READ.get_or_init(|| {
        let wanted = std::env::var("READER").unwrap_or_default();
        let names = untrusted::READERS.map(|(name, _)| name).join(", ");
        let found = untrusted::READERS.iter().find(|(name, _)| *name == wanted);
        found.unwrap_or_else(|| panic!("READER: one of {names}")).1
    });
    read(bytes);
});
