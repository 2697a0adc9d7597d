//! Every kernel field that the programs read: resolved by the agent from the running kernel's BTF, passed in as
//! read-only data.

/// A field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$meta:meta])* $field:ident,)*) => {
        /// Byte offsets of kernel fields; [`ABSENT`] where the running kernel has no such field.
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct Offsets { $($(#[$meta])* pub $field: u32,)* }

        impl Offsets {
            /// Nothing resolved.
            pub const NONE: Self = Self { $($field: ABSENT,)* };
        }
    };
}

offsets! {
    /// `task_struct.pid`.
    task_pid,
    /// `task_struct.tgid`.
    task_tgid,
    /// `task_struct.mm`.
    task_mm,
    /// `task_struct.signal`.
    task_signal,
    /// `task_struct.exit_code`.
    task_exit_code,
}
