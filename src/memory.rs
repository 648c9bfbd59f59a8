//! The allocator of this library: the system's, and a small reserve for when that has no memory.
//!
//! PostgreSQL raises 53200 where memory is at its end. pgrx catches errors and copies them to Rust's heap, and there a
//! failed allocation ends the process, which restarts the server. With the reserve the copy succeeds. What a caller sizes
//! is larger than the reserve, and fails as it should. A piece that an error skips by longjmp is never freed: it keeps its
//! part of the reserve until the session ends. Calls begin with memory to spare, so that few do.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Enough for some errors with their messages, and for what is on the heap between them and the caller.
const SIZE: usize = 64 * 1024;

struct Allocator {
    reserve: UnsafeCell<[u8; SIZE]>,
    /// Bytes of the reserve that are given out, from its start.
    used: AtomicUsize,
    /// Allocations in the reserve that are alive. With the last one, all of it is free again.
    alive: AtomicUsize,
}

// SAFETY: each byte is given out once, by an atomic addition, until nothing in the reserve is alive. The processes of
// PostgreSQL have one thread.
unsafe impl Sync for Allocator {}

#[global_allocator]
static ALLOCATOR: Allocator =
    Allocator { reserve: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0), alive: AtomicUsize::new(0) };

impl Allocator {
    fn start(&self) -> *mut u8 {
        self.reserve.get().cast()
    }

    fn holds(&self, memory: *mut u8) -> bool {
        (self.start()..self.start().wrapping_add(SIZE)).contains(&memory)
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let most = layout.size() + layout.align();
        let at = self.used.load(Ordering::Relaxed);
        if most > SIZE - at {
            return ptr::null_mut();
        }
        self.used.store(at + most, Ordering::Relaxed);
        self.alive.fetch_add(1, Ordering::Relaxed);
        let start = self.start().wrapping_add(at);
        start.wrapping_add(start.align_offset(layout.align()))
    }
}

// SAFETY: memory comes from the system, or else from the reserve, aligned and as large as asked for; it goes back to where
// it came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        let memory = unsafe { System.alloc(layout) };
        if memory.is_null() { self.take(layout) } else { memory }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !self.holds(memory) {
            // SAFETY: by the caller's promise.
            unsafe { System.dealloc(memory, layout) };
        } else if self.alive.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.used.store(0, Ordering::Relaxed);
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the caller's promise; the copy is as long as the shorter of the two.
        unsafe {
            if !self.holds(memory) {
                let moved = System.realloc(memory, layout, size);
                if !moved.is_null() {
                    return moved;
                }
            }
            let copy = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !copy.is_null() {
                ptr::copy_nonoverlapping(memory, copy, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            copy
        }
    }
}
