//! Libraries that are looked for when the program runs, so that one binary serves machines with and without them.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void, CStr, CString};

/// A library that is loaded, and stays so until the program ends.
#[derive(Clone, Copy)]
pub(super) struct Library(*mut c_void);

impl Library {
    /// The first of these files that can be loaded, and its name; `flags` beside `RTLD_NOW`.
    ///
    /// # Errors
    /// None of them: what the loader says of each.
    ///
    /// # Safety
    /// What these libraries do when they are loaded must be sound.
    pub(super) unsafe fn first_of<'a>(names: &[&'a str], flags: c_int) -> Result<(Library, &'a str), String> {
        let mut tried = Vec::new();
        for &name in names {
            let path = CString::new(name).map_err(|e| e.to_string())?;
            // SAFETY: the path ends with a zero; the rest is the caller's.
            let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | flags) };
            if !library.is_null() {
                return Ok((Library(library), name));
            }
            // SAFETY: dlopen has failed on this thread, so there is a text that ends with a zero.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) };
            tried.push(why.to_string_lossy().into_owned());
        }
        Err(tried.join("; "))
    }

    /// Where a function or a variable lies.
    ///
    /// # Errors
    /// The library has none of this name.
    pub(super) fn address(self, name: &str) -> Result<*mut c_void, String> {
        let wanted = CString::new(name).map_err(|e| e.to_string())?;
        // SAFETY: the handle is one of dlopen that is never closed; the name ends with a zero.
        let found = unsafe { libc::dlsym(self.0, wanted.as_ptr()) };
        match found.is_null() {
            true => Err(format!("it has no {name}")),
            false => Ok(found),
        }
    }
}

/// A struct of a library's functions; `of` finds them in a [`Library`].
macro_rules! functions {
    ($(#[$attribute:meta])* $($name:ident: fn($($argument:ty),*) -> $answer:ty;)*) => {
        $(#[$attribute])*
        #[allow(non_snake_case)]
        struct Functions { $($name: unsafe extern "C" fn($($argument),*) -> $answer,)* }

        impl Functions {
            /// # Safety
            /// The library must declare its functions as they are declared here.
            unsafe fn of(library: $crate::ops::library::Library) -> Result<Functions, String> {
                Ok(Functions { $(
                    // SAFETY: the caller's.
                    $name: unsafe {
                        std::mem::transmute::<*mut ::std::ffi::c_void, unsafe extern "C" fn($($argument),*) -> $answer>(
                            library.address(stringify!($name))?,
                        )
                    },
                )* })
            }
        }
    };
}
pub(super) use functions;
