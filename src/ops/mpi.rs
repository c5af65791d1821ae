//! The functions of an MPI library that are used here, found when the program runs: one binary for machines with and without
//! MPI, and for every library. Open MPI's handles are addresses of symbols, those of MPICH and its kin (Intel MPI, MVAPICH,
//! Cray) and of the standard ABI (MPI 5.0, chapter 20) are numbers.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::{Mutex, MutexGuard};

use super::library::{functions, Library};

/// A handle: a number, or an address.
type Handle = usize;

/// Names of libraries, Open MPI's first, then those with MPICH's and the standard's ABI.
const LIBRARIES: [&str; 4] = ["libmpi.so.40", "libmpi_abi.so.0", "libmpi.so.12", "libmpich.so.12"];

functions! {
    /// As the MPI standard declares them.
    MPI_Init_thread: fn(*mut c_int, *mut c_void, c_int, *mut c_int) -> c_int;
    MPI_Finalize: fn() -> c_int;
    MPI_Abort: fn(Handle, c_int) -> c_int;
    MPI_Comm_rank: fn(Handle, *mut c_int) -> c_int;
    MPI_Comm_size: fn(Handle, *mut c_int) -> c_int;
    MPI_Get_library_version: fn(*mut c_char, *mut c_int) -> c_int;
    MPI_Ibarrier: fn(Handle, *mut Handle) -> c_int;
    MPI_Isend: fn(*const c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle) -> c_int;
    MPI_Irecv: fn(*mut c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle) -> c_int;
    MPI_Test: fn(*mut Handle, *mut c_int, *mut c_void) -> c_int;
    MPI_Bcast: fn(*mut c_void, c_int, Handle, c_int, Handle) -> c_int;
    MPI_Allgatherv: fn(*const c_void, c_int, Handle, *mut c_void, *const c_int, *const c_int, Handle, Handle) -> c_int;
    MPI_Alltoallv: fn(
        *const c_void, *const c_int, *const c_int, Handle, *mut c_void, *const c_int, *const c_int, Handle, Handle) -> c_int;
}

/// What messages are made of.
pub trait Wire: Copy + Default {
    /// How the library calls it.
    const KIND: Kind;
}

/// A type of the elements of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 8 bits.
    Byte,
    /// 32 bits.
    Float,
}

impl Wire for u8 {
    const KIND: Kind = Kind::Byte;
}
impl Wire for f32 {
    const KIND: Kind = Kind::Float;
}

/// A family of binary interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abi {
    OpenMpi,
    Mpich,
    Standard,
}

/// Constants of an interface.
struct Handles {
    world: Handle,
    byte: Handle,
    float: Handle,
    in_place: *const c_void,
    ignore_status: *mut c_void,
    /// `MPI_THREAD_SERIALIZED`: calls come from any thread, one at a time.
    serialized: c_int,
}

impl Handles {
    fn of(abi: Abi, library: Library) -> Result<Handles, String> {
        let address = |name| library.address(name).map(|found| found as Handle);
        let number = |value: usize| std::ptr::without_provenance::<c_void>(value);
        Ok(match abi {
            Abi::OpenMpi => Handles {
                world: address("ompi_mpi_comm_world")?,
                byte: address("ompi_mpi_byte")?,
                float: address("ompi_mpi_float")?,
                in_place: number(1),
                ignore_status: std::ptr::null_mut(),
                serialized: 2,
            },
            Abi::Mpich => Handles {
                world: 0x4400_0000,
                byte: 0x4c00_010d,
                float: 0x4c00_040a,
                in_place: number(usize::MAX),
                ignore_status: number(1).cast_mut(),
                serialized: 2,
            },
            Abi::Standard => Handles {
                world: 0x101,
                byte: 0x247,
                float: 0x210,
                in_place: number(1),
                ignore_status: std::ptr::null_mut(),
                serialized: 2048,
            },
        })
    }
}

/// A library that was initialised. Calls come from any thread; they wait for each other.
pub struct Mpi {
    functions: Functions,
    handles: Handles,
    calling: Mutex<()>,
    /// File, and what the library says of itself.
    pub library: String,
    /// Of this process, from 0.
    pub rank: usize,
    /// Processes.
    pub size: usize,
}

// SAFETY: the pointers among the handles are constants that nobody reads through; calls are serialized by `calling`, which is
// what the level of threads that was asked for allows.
unsafe impl Send for Mpi {}
// SAFETY: as above.
unsafe impl Sync for Mpi {}

/// An operation under way that reads and writes no memory of ours.
pub struct Request(Handle);

impl Mpi {
    /// Loads and initialises a library: `named`, or the first of the usual ones that there is; `mpich_first` where the
    /// launcher is of that family.
    ///
    /// # Errors
    /// No library, or one that can not be used: what was tried.
    pub fn init(named: Option<&str>, mpich_first: bool) -> Result<Mpi, String> {
        let mut names: Vec<&str> = named.map_or_else(|| LIBRARIES.to_vec(), |named| vec![named]);
        if mpich_first && named.is_none() {
            names.rotate_left(1);
        }
        // Global: the plug-ins of Open MPI look for its symbols.
        // SAFETY: what the user or the launcher says is MPI is made to be loaded.
        let (library, name) = unsafe { Library::first_of(&names, libc::RTLD_GLOBAL) }?;
        // SAFETY: as above, and nobody has initialised it.
        unsafe { Mpi::start(library, name) }.map_err(|why| format!("{name}: {why}"))
    }

    /// # Safety
    /// `library` must be an MPI library that is not initialised.
    unsafe fn start(library: Library, name: &str) -> Result<Mpi, String> {
        let has = |name| library.address(name).is_ok();
        let abi = match () {
            () if has("ompi_mpi_comm_world") => Abi::OpenMpi,
            () if has("MPI_Abi_get_version") && name.contains("_abi") => Abi::Standard,
            () => Abi::Mpich,
        };
        // SAFETY: the caller's.
        let functions = unsafe { Functions::of(library)? };
        let handles = Handles::of(abi, library)?;
        let (mut level, mut rank, mut size, mut length) = (0, 0, 0, 0);
        let mut text = [0 as c_char; 8192];
        // SAFETY: no arguments are given, as MPI allows; the other pointers are to numbers that live until the calls end, and
        // to more than MPI_MAX_LIBRARY_VERSION_STRING (8192 at most) letters.
        unsafe {
            let wanted = handles.serialized;
            check((functions.MPI_Init_thread)(std::ptr::null_mut(), std::ptr::null_mut(), wanted, &mut level))?;
            check((functions.MPI_Comm_rank)(handles.world, &mut rank))?;
            check((functions.MPI_Comm_size)(handles.world, &mut size))?;
            check((functions.MPI_Get_library_version)(text.as_mut_ptr(), &mut length))?;
        }
        if level < handles.serialized {
            return Err("it was built without support for threads".to_string());
        }
        // SAFETY: the library has ended its text with a zero; the last letter of the array is one in any case.
        let version = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
        let version = version.lines().next().unwrap_or_default().split(',').next().unwrap_or_default();
        let library = format!("{version} ({name})");
        Ok(Mpi { functions, handles, calling: Mutex::new(()), library, rank: rank as usize, size: size as usize })
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.calling.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn kind(&self, kind: Kind) -> Handle {
        match kind {
            Kind::Byte => self.handles.byte,
            Kind::Float => self.handles.float,
        }
    }

    /// Begins to wait until all ranks have come here; [`Mpi::is_done`] tells when they have.
    ///
    /// # Errors
    /// What the library says.
    pub fn barrier(&self) -> Result<Request, String> {
        let _turn = self.turn();
        let mut request = 0;
        // SAFETY: the request is a number that lives until the call ends.
        check(unsafe { (self.functions.MPI_Ibarrier)(self.handles.world, &mut request) })?;
        Ok(Request(request))
    }

    /// Whether an operation has ended; to be asked until it has.
    ///
    /// # Errors
    /// What the library says.
    pub fn is_done(&self, request: &mut Request) -> Result<bool, String> {
        let _turn = self.turn();
        let mut done = 0;
        // SAFETY: the request is one that this library made and has not said to be done.
        check(unsafe { (self.functions.MPI_Test)(&mut request.0, &mut done, self.handles.ignore_status) })?;
        Ok(done != 0)
    }

    /// Begins to tell another rank that this one is alive, or to hear it of another. The byte is never looked at and lives as
    /// long as the program.
    ///
    /// # Errors
    /// What the library says.
    pub fn sign_of_life(&self, to: Option<usize>, from: Option<usize>) -> Result<Request, String> {
        const TAG: c_int = 7;
        let byte: *mut u8 = Box::leak(Box::new(0u8));
        let (mut request, world, kind) = (0, self.handles.world, self.handles.byte);
        let _turn = self.turn();
        // SAFETY: the byte is never freed.
        check(unsafe {
            match (to, from) {
                (Some(to), _) => {
                    (self.functions.MPI_Isend)(byte.cast(), 1, kind, to as c_int, TAG, world, &mut request)
                }
                (_, from) => {
                    let from = from.unwrap_or_default() as c_int;
                    (self.functions.MPI_Irecv)(byte.cast(), 1, kind, from, TAG, world, &mut request)
                }
            }
        })?;
        Ok(Request(request))
    }

    /// What rank `from` has, in all ranks; as many elements everywhere.
    ///
    /// # Errors
    /// What the library says.
    pub fn broadcast<T: Wire>(&self, data: &mut [T], from: usize) -> Result<(), String> {
        let _turn = self.turn();
        for part in data.chunks_mut(MOST) {
            let (at, count) = (part.as_mut_ptr().cast(), part.len() as c_int);
            // SAFETY: the part has that many elements of that type.
            check(unsafe {
                (self.functions.MPI_Bcast)(at, count, self.kind(T::KIND), from as c_int, self.handles.world)
            })?;
        }
        Ok(())
    }

    /// Each rank's part of `data`, in all ranks; `counts` are the lengths of the parts, which lie one after the other.
    ///
    /// # Errors
    /// Parts that are not those of `data`; more than 2³¹ elements; what the library says.
    pub fn all_gather<T: Wire>(&self, data: &mut [T], counts: &[usize]) -> Result<(), String> {
        let (counts, places) = self.parts(data.len(), counts)?;
        if data.is_empty() {
            // which all ranks know; Open MPI takes it for a mistake
            return Ok(());
        }
        let (kind, at, in_place) = (self.kind(T::KIND), data.as_mut_ptr().cast(), self.handles.in_place);
        let _turn = self.turn();
        // SAFETY: counts and places are of as many ranks as there are, and were checked to lie within `data`.
        check(unsafe {
            let (counts, places) = (counts.as_ptr(), places.as_ptr());
            (self.functions.MPI_Allgatherv)(in_place, 0, kind, at, counts, places, kind, self.handles.world)
        })
    }

    /// Sends part `r` of `data` to rank `r`, and receives the parts of the others, one after the other.
    ///
    /// # Errors
    /// Parts that are not those of the data; more than 2³¹ elements; what the library says.
    pub fn exchange<T: Wire>(
        &self,
        (data, sent): (&[T], &[usize]),
        (found, received): (&mut [T], &[usize]),
    ) -> Result<(), String> {
        let (sent, sent_at) = self.parts(data.len(), sent)?;
        let (received, received_at) = self.parts(found.len(), received)?;
        let kind = self.kind(T::KIND);
        let (from, to) = (data.as_ptr().cast(), found.as_mut_ptr().cast());
        let _turn = self.turn();
        // SAFETY: counts and places are of as many ranks as there are, and were checked to lie within the two slices.
        check(unsafe {
            let (sent, sent_at) = (sent.as_ptr(), sent_at.as_ptr());
            let (received, received_at) = (received.as_ptr(), received_at.as_ptr());
            let world = self.handles.world;
            (self.functions.MPI_Alltoallv)(from, sent, sent_at, kind, to, received, received_at, kind, world)
        })
    }

    /// Counts of the parts of `whole` elements as MPI wants them, and where they begin.
    fn parts(&self, whole: usize, counts: &[usize]) -> Result<(Vec<c_int>, Vec<c_int>), String> {
        if counts.len() != self.size || counts.iter().sum::<usize>() != whole {
            return Err(format!("{} parts of {whole} elements for {} ranks", counts.len(), self.size));
        }
        if whole > MOST {
            return Err(format!("{whole} elements in one message, MPI counts to {MOST}"));
        }
        let places = counts.iter().scan(0, |at, &count| Some(std::mem::replace(at, *at + count) as c_int));
        Ok((counts.iter().map(|&count| count as c_int).collect(), places.collect()))
    }

    /// Ends all ranks at once with this exit code.
    pub fn abort(&self, code: u8) -> ! {
        // SAFETY: takes numbers alone. Without waiting for another thread's call, which may never end.
        unsafe { (self.functions.MPI_Abort)(self.handles.world, c_int::from(code)) };
        std::process::exit(i32::from(code))
    }

    /// After the last call, in all ranks.
    ///
    /// # Errors
    /// What the library says.
    pub fn finalize(&self) -> Result<(), String> {
        let _turn = self.turn();
        // SAFETY: takes nothing; the caller makes no call after it.
        check(unsafe { (self.functions.MPI_Finalize)() })
    }
}

/// Most elements of a message.
const MOST: usize = c_int::MAX as usize;

fn check(code: c_int) -> Result<(), String> {
    match code {
        0 => Ok(()),
        code => Err(format!("the MPI library reports error {code}")),
    }
}
