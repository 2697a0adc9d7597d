//! Wire types shared by the kernel programs and the agent: the layout of every record in the ring and of every map
//! value, with sizes asserted.
//!
//! This crate knows how an event is laid out, not what it means; meaning is the agent's (`ring`, `build`).
//! Every record starts with a [`Header`]; its [`Kind`] says which struct the bytes are.
#![no_std]

/// Declares a plain wire struct: `repr(C)`, no padding the author did not name, size asserted.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident : $size:literal { $($(#[$field_meta:meta])* pub $field:ident : $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        #[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable))]
        pub struct $name { $($(#[$field_meta])* pub $field : $ty,)* }
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
        const _: () = assert!(core::mem::align_of::<$name>() <= 8);
    };
}

mod block;
mod file;
mod function;
mod header;
mod map;
mod offsets;
mod process;
mod scheduler;
mod socket;

pub use block::*;
pub use file::*;
pub use function::*;
pub use header::*;
pub use map::*;
pub use offsets::*;
pub use process::*;
pub use scheduler::*;
pub use socket::*;
