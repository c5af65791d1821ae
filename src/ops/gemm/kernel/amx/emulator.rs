//! AMX tiles for tests on processors without them. An instruction that a processor does not know raises SIGILL; the handler
//! here reads it, does what Intel's manual says of it to tiles of the thread's own, and goes on behind it. So tests run the
//! kernel's own bytes: registers, addresses, order of sums.
//!
//! What is not an instruction of tiles is left to the handler before. A use that a processor would refuse (a tile without
//! shape, operands that do not fit) ends the process with a word.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, the pseudo-code of each instruction.

#![expect(unsafe_code, reason = "a signal handler that reads instructions and the memory that they name")]

use std::cell::RefCell;
use std::sync::OnceLock;

const TILES: usize = 8;
const ROWS: usize = 16;
/// Words of 4 bytes in a row.
const WORDS: usize = 16;

#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    /// Words of a row; 0 = the tile has no shape.
    words: usize,
    data: [[u32; WORDS]; ROWS],
}

const NO_TILE: Tile = Tile { rows: 0, words: 0, data: [[0; WORDS]; ROWS] };

thread_local! {
    /// Without a destructor and without a first use, so that a signal handler may touch it.
    static OWN: RefCell<[Tile; TILES]> = const { RefCell::new([NO_TILE; TILES]) };
}

/// What was there before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// From here on, all threads of this process can use tiles.
pub(crate) fn emulate() {
    BEFORE.get_or_init(|| {
        // SAFETY: zeros are a valid action without flags; the handler only uses what a handler may; both pointers are to
        // memory of this frame.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_unknown as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, &raw mut before), 0);
            before
        }
    });
}

/// Does the instruction that a thread stopped at.
extern "C" fn on_unknown(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system gives the interrupted thread's registers, which are nobody else's until this returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let place = registers[libc::REG_RIP as usize];
    match Instruction::read(place as usize, |number| registers[NUMBERS[number] as usize] as usize) {
        Some(instruction) if instruction.run() => registers[libc::REG_RIP as usize] = place + instruction.length as i64,
        _ => pass_on(signal, info, context),
    }
}

/// To the handler before; where there was none the process ends as it would have.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get().map_or(libc::SIG_DFL, |action| action.sa_sigaction);
    // SAFETY: a handler that was installed takes these, or the first of them, which is all the same to the caller; else
    // the default comes back, and meets the instruction again.
    unsafe {
        if before == libc::SIG_DFL || before == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
        } else {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(before);
            handler(signal, info, context);
        }
    }
}

/// The processor would refuse this.
fn refuse(why: &str) -> ! {
    // SAFETY: writes a text to stderr; allowed in a handler, as a panic is not.
    unsafe {
        libc::write(2, why.as_ptr().cast(), why.len());
        libc::abort()
    }
}

/// Where the system keeps registers 0 to 15.
const NUMBERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// An instruction with a three-byte VEX prefix, of the map 0F38, W0, 128 bits: all that tiles have.
#[derive(Clone, Copy)]
struct Instruction {
    prefix: u8,
    opcode: u8,
    /// The register of ModRM.
    reg: usize,
    /// Its other register, where it names no memory.
    rm: usize,
    /// The register of VEX.
    third: usize,
    memory: Option<Memory>,
    length: usize,
}

/// `[base + index·scale + displacement]`, the middle apart: from row to row of a tile.
#[derive(Clone, Copy)]
struct Memory {
    start: usize,
    stride: usize,
}

impl Instruction {
    fn read(place: usize, register: impl Fn(usize) -> usize) -> Option<Self> {
        // SAFETY: the processor has just read these bytes; later ones are read when those before say that they are there.
        let byte = |i: usize| unsafe { *((place + i) as *const u8) };
        let number = |i: usize| i32::from_le_bytes([byte(i), byte(i + 1), byte(i + 2), byte(i + 3)]) as isize;
        if byte(0) != 0xC4 || byte(1) & 0x1F != 2 || byte(2) & 0x84 != 0 {
            return None;
        }
        let (opcode, modrm) = (byte(3), byte(4));
        let [r, x, b] = [7, 6, 5].map(|bit| usize::from(!byte(1) >> bit & 1) << 3);
        let (mode, low) = (modrm >> 6, usize::from(modrm & 7));
        let mut length = 5;
        let memory = (mode != 3).then(|| {
            let sib = (low == 4).then(|| byte(5));
            length += usize::from(sib.is_some());
            let base = sib.map_or(low, |sib| usize::from(sib & 7));
            let has_base = !(mode == 0 && base == 5);
            let displacement = match mode {
                0 if has_base => 0,
                1 => byte(length) as i8 as isize,
                _ => number(length),
            };
            length += [if has_base { 0 } else { 4 }, 1, 4][usize::from(mode)];
            let base = match (has_base, sib) {
                (true, _) => register(base | b),
                (false, Some(_)) => 0,
                (false, None) => place + length,
            };
            let index = sib.map(|sib| (usize::from(sib >> 3 & 7) | x, sib >> 6)).filter(|&(index, _)| index != 4);
            let stride = index.map_or(0, |(index, scale)| register(index) << scale);
            Memory { start: base.wrapping_add_signed(displacement), stride }
        });
        Some(Instruction {
            prefix: byte(2) & 3,
            opcode,
            reg: usize::from(modrm >> 3 & 7) | r,
            rm: low | b,
            third: usize::from(!byte(2) >> 3 & 15),
            memory,
            length,
        })
    }

    /// Whether it was one of tiles, and is done.
    fn run(&self) -> bool {
        /// Prefixes as VEX has them.
        const P66: u8 = 1;
        const PF3: u8 = 2;
        const PF2: u8 = 3;
        OWN.with_borrow_mut(|tiles| {
            match (self.prefix, self.opcode, self.memory) {
                (0, 0x49, Some(Memory { start, stride })) if self.reg == 0 => {
                    configure(tiles, start.wrapping_add(stride))
                }
                (0, 0x49, None) if (self.reg, self.rm) == (0, 0) => *tiles = [NO_TILE; TILES],
                (PF2, 0x49, None) if self.rm == 0 => shaped(tiles, self.reg).data = NO_TILE.data,
                (PF2 | P66, 0x4B, Some(memory)) => load(shaped(tiles, self.reg), memory),
                (PF3, 0x4B, Some(memory)) => store(shaped(tiles, self.reg), memory),
                (PF3, 0x5C, None) => multiply(tiles, [self.reg, self.rm, self.third]),
                _ => return false,
            }
            true
        })
    }
}

fn shaped(tiles: &mut [Tile; TILES], number: usize) -> &mut Tile {
    match tiles.get_mut(number).filter(|tile| tile.words > 0) {
        Some(tile) => tile,
        None => refuse("an AMX instruction on a tile to which this thread's ldtilecfg gave no shape\n"),
    }
}

/// `ldtilecfg`.
fn configure(tiles: &mut [Tile; TILES], place: usize) {
    // SAFETY: the instruction reads these 64 bytes.
    let config = unsafe { (place as *const [u8; 64]).read_unaligned() };
    let bytes = |i: usize| usize::from(u16::from_le_bytes([config[16 + 2 * i], config[17 + 2 * i]]));
    let rows = |i: usize| usize::from(config[48 + i]);
    let fits = |i: usize| match i < TILES {
        true => bytes(i) <= 64 && bytes(i) % 4 == 0 && rows(i) <= ROWS && (bytes(i) == 0) == (rows(i) == 0),
        false => bytes(i) == 0 && rows(i) == 0,
    };
    if config[0] != 1 || config[1..16].iter().any(|&byte| byte != 0) || !(0..16).all(fits) {
        refuse("ldtilecfg of shapes that there are not\n");
    }
    *tiles = std::array::from_fn(|i| Tile { rows: rows(i), words: bytes(i) / 4, ..NO_TILE });
}

/// `tileloadd`.
fn load(tile: &mut Tile, Memory { start, stride }: Memory) {
    tile.data = NO_TILE.data;
    for (i, row) in tile.data.iter_mut().take(tile.rows).enumerate() {
        let start = start.wrapping_add(stride.wrapping_mul(i)) as *const u32;
        for (j, word) in row.iter_mut().take(tile.words).enumerate() {
            // SAFETY: the instruction reads these bytes.
            *word = unsafe { start.wrapping_add(j).read_unaligned() };
        }
    }
}

/// `tilestored`.
fn store(tile: &Tile, Memory { start, stride }: Memory) {
    for (i, row) in tile.data.iter().take(tile.rows).enumerate() {
        let start = start.wrapping_add(stride.wrapping_mul(i)) as *mut u32;
        for (j, &word) in row.iter().take(tile.words).enumerate() {
            // SAFETY: the instruction writes these bytes.
            unsafe { start.wrapping_add(j).write_unaligned(word) };
        }
    }
}

/// `tdpbf16ps`: c += a·b.
fn multiply(tiles: &mut [Tile; TILES], [c, a, b]: [usize; 3]) {
    let [a_tile, b_tile] = [a, b].map(|number| *shaped(tiles, number));
    let c_tile = shaped(tiles, c);
    let distinct = a != b && b != c && c != a;
    if !distinct || (a_tile.rows, b_tile.words, b_tile.rows) != (c_tile.rows, c_tile.words, a_tile.words) {
        refuse("tdpbf16ps of tiles that do not fit each other\n");
    }
    let sums = tdpbf16ps(c_tile.data.map(|row| row.map(f32::from_bits)), &a_tile.data, &b_tile.data);
    c_tile.data = NO_TILE.data;
    for (row, sums) in c_tile.data.iter_mut().zip(sums).take(c_tile.rows) {
        row.iter_mut().zip(sums).take(c_tile.words).for_each(|(word, sum)| *word = sum.to_bits());
    }
}

/// Tiles without shape: words beyond it are zero. Even and odd k are summed apart in fused steps that flush denormals,
/// and added to each other and then to `c` at the end.
fn tdpbf16ps(mut c: [[f32; WORDS]; ROWS], a: &[[u32; WORDS]; ROWS], b: &[[u32; WORDS]; ROWS]) -> [[f32; WORDS]; ROWS] {
    let halves = |word: u32| [word << 16, word & 0xFFFF_0000].map(f32::from_bits).map(flushed);
    for (c, a) in c.iter_mut().zip(a) {
        let mut sums = [[0.0f32; 2]; WORDS];
        for (&a, b) in a.iter().zip(b) {
            let a = halves(a);
            for (sums, &b) in sums.iter_mut().zip(b) {
                let b = halves(b);
                *sums = [0, 1].map(|i| flushed(a[i].mul_add(b[i], sums[i])));
            }
        }
        for (c, [even, odd]) in c.iter_mut().zip(sums) {
            *c = flushed(flushed(*c) + flushed(even + odd));
        }
    }
    c
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() {
        0.0f32.copysign(x)
    } else {
        x
    }
}

/// These are of the processor where it has tiles, and of the emulator elsewhere.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::precision::Units;
    use crate::rng::{stream, Purpose};
    use std::arch::asm;

    /// One tile each of 5 × 3, 5 × 7 and 7 × 3 words, `tmm1`, `tmm5`, `tmm6`.
    fn config() -> [u8; 64] {
        let mut config = [0; 64];
        config[0] = 1;
        for (tile, rows, words) in [(1, 5, 3), (5, 5, 7), (6, 7, 3)] {
            (config[16 + 2 * tile], config[48 + tile]) = (4 * words, rows);
        }
        config
    }

    #[test]
    fn a_product_of_small_tiles_is_that_of_the_manual() {
        assert!(Units::available().any(|units| units == Units::Amx));
        let mut rng = stream(4, Purpose::Probe, 0);
        let mut word = || {
            let scale = if rng.uniform() < 0.1 { 1e-39 } else { 1.0 };
            [0, 1].map(|_| (rng.normal() as f32 * scale).to_bits() >> 16)
        };
        // rows lie 9, 10 and 4 words apart; what is between them must not matter
        let mut fill = |n: usize| -> Vec<u32> { (0..n).map(|_| word()).map(|[low, high]| low | high << 16).collect() };
        let (a, b, c) = (fill(5 * 9), fill(7 * 10), fill(5 * 4));
        let mut out = c.clone();
        let config = config();
        // SAFETY: each instruction reads or writes rows of these slices; registers of Rust's own are not used as such.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tileloadd tmm1, [r12 + {c_stride}*4]",
                "tileloadd tmm5, [r13 + {a_stride}*1 - 8]",
                "tileloadd tmm6, [{b} + {b_stride}*8 + 400]",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "tilestored [r12 + {c_stride}*4], tmm1",
                "tilerelease",
                config = in(reg) config.as_ptr(),
                c_stride = in(reg) 4usize,
                a_stride = in(reg) 36usize,
                b = in(reg) b.as_ptr().wrapping_sub(100),
                b_stride = in(reg) 5usize,
                in("r12") out.as_mut_ptr(),
                in("r13") a.as_ptr().wrapping_add(2),
                out("tmm1") _, out("tmm5") _, out("tmm6") _,
                options(nostack)
            );
        }
        let half =
            |word: u32, odd: usize| flushed(f32::from_bits(if odd == 0 { word << 16 } else { word & 0xFFFF_0000 }));
        for i in 0..5 {
            for j in 0..3 {
                let sum = |odd| {
                    (0..7)
                        .fold(0.0f32, |sum, k| flushed(half(a[9 * i + k], odd).mul_add(half(b[10 * k + j], odd), sum)))
                };
                let right = flushed(flushed(f32::from_bits(c[4 * i + j])) + flushed(sum(0) + sum(1)));
                assert_eq!(out[4 * i + j], right.to_bits(), "{i} {j}");
            }
            assert_eq!(out[4 * i + 3], c[4 * i + 3], "written beyond the row");
        }
    }

    #[test]
    fn a_tile_is_cleared_and_has_zeros_beyond_its_shape() {
        assert!(Units::available().any(|units| units == Units::Amx));
        let (words, mut out, config) = ([7u32; 64], [1u32; 64], config());
        // SAFETY: as above.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tileloadd tmm5, [{words}]",
                "tilestored [{out} + {stride}*2], tmm5",
                "tilezero tmm5",
                "tilestored [{out} + {stride}*2 + 128], tmm5",
                "tilerelease",
                config = in(reg) config.as_ptr(),
                words = in(reg) words.as_ptr(),
                out = in(reg) out.as_mut_ptr(),
                stride = in(reg) 12usize,
                out("tmm5") _,
                options(nostack)
            );
        }
        // five rows of seven words, six apart: the later ones lie over the seventh word of those before
        let expected: Vec<u32> = (0..64).map(|i| if i < 31 { 7 } else { u32::from(i == 31) }).collect();
        assert_eq!(out[..32], expected[..32]);
        assert_eq!(out[32..63], [0; 31]);
        assert_eq!(out[63], 1);
    }
}
