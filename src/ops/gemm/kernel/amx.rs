//! The kernel of AMX tiles: 32 × 32 of the result in four of them, two for the strip, two for the panel.
//!
//! A tile holds 16 rows of 64 bytes. That of the left operand has the words of 16 rows for 16 steps, which are the rows
//! of a strip; that of the right one 16 steps of 16 columns, which is half a panel; `tdpbf16ps` adds their product to 16 × 16
//! sums. Stable Rust has no functions for these instructions, its assembler has.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2.

#[cfg(all(test, target_os = "linux", not(miri)))]
pub(super) mod emulator;

use super::{store, Tile, ROW};
use std::arch::asm;

pub(super) const MR: usize = 32;
pub(super) const NR: usize = 32;

/// Words of k in one tile.
pub(super) const WORDS: usize = 16;

/// Rows of a tile.
const ROWS: u8 = 16;

/// What `ldtilecfg` reads: the shapes of the eight tiles.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_a_row: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_a_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Gives this thread its tiles.
pub(super) fn begin() {
    // SAFETY: reads 64 bytes that describe eight valid tiles; this arithmetic is only chosen where the system grants them.
    #[expect(unsafe_code, reason = "an instruction that Rust has no function for")]
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly, preserves_flags));
    }
}

/// Gives them back: the system saves and restores 8 KiB less when it changes threads.
pub(super) fn end() {
    // SAFETY: no tile is in use outside of `rows`.
    #[expect(unsafe_code, reason = "an instruction that Rust has no function for")]
    unsafe {
        asm!("tilerelease", options(nostack, nomem, preserves_flags));
    }
}

/// # Safety
/// As [`super::Run`] says, with words a multiple of [`WORDS`]; `begin` was called on this thread.
#[expect(unsafe_code, reason = "instructions that Rust has no functions for; the caller keeps Run's promise")]
pub(super) unsafe fn rows(words: usize, strip: *const f32, panel: *const f32, tile: Tile<f32>) {
    let whole = tile.rows == MR && tile.columns == NR && tile.alpha == 1.0;
    let mut edge = [0.0f32; MR * NR];
    // sums begin with what is there, or with nothing; at an edge too, for an element is to be summed in one order
    let goes_on = tile.add && tile.alpha == 1.0;
    if goes_on && !whole {
        for (i, row) in edge.chunks_exact_mut(NR).take(tile.rows).enumerate() {
            let old = std::slice::from_raw_parts(tile.c.add(i * tile.stride), tile.columns);
            row[..tile.columns].copy_from_slice(old);
        }
    }
    let (c, stride) = if whole { (tile.c, tile.stride) } else { (edge.as_mut_ptr(), NR) };
    let bytes = size_of::<f32>();
    let from_memory = usize::from(goes_on);
    asm!(
        "test {from_memory}, {from_memory}",
        "jz 2f",
        "tileloadd tmm0, [{c} + {by_c}*1]",
        "tileloadd tmm1, [{c} + {by_c}*1 + 64]",
        "tileloadd tmm2, [{lower} + {by_c}*1]",
        "tileloadd tmm3, [{lower} + {by_c}*1 + 64]",
        "jmp 3f",
        "2:",
        "tilezero tmm0",
        "tilezero tmm1",
        "tilezero tmm2",
        "tilezero tmm3",
        "3:",
        "tileloadd tmm4, [{a} + {by_a}*1]",
        "tileloadd tmm6, [{b} + {by_b}*1]",
        "tileloadd tmm7, [{b} + {by_b}*1 + 64]",
        "prefetcht0 [{ahead}]",
        "prefetcht0 [{ahead} + 64]",
        "prefetcht0 [{ahead} + 128]",
        "prefetcht0 [{ahead} + 192]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm5, [{a_lower} + {by_a}*1]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "add {a}, 64",
        "add {a_lower}, 64",
        "add {b}, {step}",
        "add {ahead}, 256",
        "dec {n}",
        "jnz 3b",
        "tilestored [{c} + {by_c}*1], tmm0",
        "tilestored [{c} + {by_c}*1 + 64], tmm1",
        "tilestored [{lower} + {by_c}*1], tmm2",
        "tilestored [{lower} + {by_c}*1 + 64], tmm3",
        from_memory = in(reg) from_memory,
        c = in(reg) c,
        lower = in(reg) c.wrapping_add(16 * stride),
        by_c = in(reg) stride * bytes,
        a = inout(reg) strip => _,
        a_lower = inout(reg) strip.wrapping_add(16 * ROW) => _,
        by_a = in(reg) ROW * bytes,
        b = inout(reg) panel => _,
        by_b = in(reg) NR * bytes,
        step = const WORDS * NR * 4,
        ahead = inout(reg) tile.ahead => _,
        n = inout(reg) words / WORDS => _,
        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        options(nostack)
    );
    if !whole {
        store(&edge, NR, Tile { add: tile.add && !goes_on, ..tile });
    }
}
