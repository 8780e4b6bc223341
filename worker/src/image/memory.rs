//! Limits the memory that all threads of a worker use for decoding. An image waits until the memory
//! that it needs is free; one that needs more than the limit is decoded alone.

use std::sync::{Condvar, Mutex, PoisonError};

/// See [`limit`].
const USUAL_BYTES: u64 = 512 << 20;

static ROOM: Room = Room {
    state: Mutex::new(State { limit: USUAL_BYTES, taken: 0, came: 0, went_on: 0 }),
    freed: Condvar::new(),
};

#[derive(Debug)]
struct Room {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    limit: u64,
    taken: u64,
    /// The number of requests, and the number of granted ones. Requests are granted in order, so
    /// that small images do not starve a large one.
    came: u64,
    went_on: u64,
}

/// Reserved memory, which is released when this is dropped.
#[derive(Debug)]
pub(super) struct Part {
    room: &'static Room,
    bytes: u64,
}

/// Sets the limit of memory for decoding, in bytes, for this process.
pub fn limit(bytes: u64) {
    ROOM.state.lock().unwrap_or_else(PoisonError::into_inner).limit = bytes;
    ROOM.freed.notify_all();
}

/// Waits until `bytes` are free, and reserves them.
pub(super) fn take(bytes: u64) -> Part {
    ROOM.take(bytes)
}

impl Room {
    fn take(&'static self, bytes: u64) -> Part {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = state.came;
        state.came += 1;
        let must_wait = |state: &mut State| {
            state.went_on != turn || (state.taken > 0 && state.taken.saturating_add(bytes) > state.limit)
        };
        let mut state = self.freed.wait_while(state, must_wait).unwrap_or_else(PoisonError::into_inner);
        state.taken = state.taken.saturating_add(bytes);
        state.went_on += 1;
        drop(state);
        self.freed.notify_all();
        Part { room: self, bytes }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.room.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken = state.taken.saturating_sub(self.bytes);
        drop(state);
        self.room.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    fn room(limit: u64) -> &'static Room {
        let state = Mutex::new(State { limit, taken: 0, came: 0, went_on: 0 });
        Box::leak(Box::new(Room { state, freed: Condvar::new() }))
    }

    #[test]
    fn a_request_waits_until_it_fits() {
        let room = room(100);
        let first = room.take(60);
        let small = room.take(40);
        let (sender, receiver) = mpsc::channel();
        let waiting = thread::spawn(move || {
            let part = room.take(50);
            sender.send(()).unwrap();
            part
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(small);
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "60 + 50 exceeds the limit");
        drop(first);
        receiver.recv_timeout(Duration::from_secs(20)).unwrap();
        drop(waiting.join().unwrap());
        assert_eq!(room.state.lock().unwrap().taken, 0);
    }

    #[test]
    fn an_image_above_the_limit_is_decoded_alone() {
        let room = room(100);
        let huge = room.take(1000);
        let (sender, receiver) = mpsc::channel();
        let waiting = thread::spawn(move || {
            drop(room.take(1));
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(huge);
        receiver.recv_timeout(Duration::from_secs(20)).unwrap();
        waiting.join().unwrap();
    }
}
