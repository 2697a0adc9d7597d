//! Wire types as keys and values of aya's maps.

use aya::Pod;

/// Newtype over wire types, which aya asks to be its own kind of plain.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Wire<T>(pub(super) T);

// SAFETY: wire types are `repr(C)`, `Copy`, without padding and valid for every bit pattern.
unsafe impl<T: Copy + 'static> Pod for Wire<T> {}
