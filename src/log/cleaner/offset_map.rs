//! The offset of the last record of each key, in memory of a fixed size.
//!
//! As Kafka's map an entry takes 24 bytes and there are as many as fit into the memory, so that one pass reaches as far as
//! a JVM's would. Memory is taken for as many keys as there can be offsets, and the system gives it as it is written to.
//! Source: kafka 3.9 storage/.../log/SkimpyOffsetMap.java.

use crate::model::Offset;

/// The number of a key, and an offset that is one larger, so that 0 is no entry.
type Entry = [u64; 3];
const ENTRY_BYTES: u64 = 24;

pub(crate) struct OffsetMap {
    /// Open addressing: the first place is the number's share of the whole, then one after another.
    entries: Vec<Entry>,
    len: usize,
    /// No more go in.
    len_max: usize,
    /// The last offset that the map knows all about.
    latest_offset: Offset,
}

impl OffsetMap {
    /// For as many keys as fit into `memory` bytes filled to `load_factor`, of which there will be no more than `keys_max`.
    pub fn new(memory: u64, load_factor: f64, keys_max: u64) -> OffsetMap {
        let slots = memory.min(i32::MAX as u64) / ENTRY_BYTES;
        let len_max = ((slots as f64 * load_factor) as u64).clamp(1, slots.saturating_sub(1).max(1));
        let needed = keys_max.min(len_max);
        // Few keys have more room than many, and one place stays empty, at which a search ends.
        let places = (needed + needed / 2 + 2).min(slots.max(needed + 1));
        OffsetMap {
            entries: vec![[0; 3]; places as usize],
            len: 0,
            len_max: len_max as usize,
            latest_offset: Offset(-1),
        }
    }

    pub fn is_full(&self) -> bool {
        self.len >= self.len_max
    }

    /// How full it is of what it may take, from 0 to 1.
    pub fn utilization(&self) -> f64 {
        self.len as f64 / self.len_max as f64
    }

    /// The caller asks `is_full` before.
    pub fn put(&mut self, key: u128, offset: Offset) {
        let place = self.place_of(key);
        let entry = &mut self.entries[place];
        if entry[2] == 0 {
            // More keys than offsets: a log that contradicts itself loses nothing by it, since what is not here stays.
            if self.len + 1 >= self.entries.len() {
                return;
            }
            self.len += 1;
        }
        let entry = &mut self.entries[place];
        *entry = [(key >> 64) as u64, key as u64, offset.0 as u64 + 1];
        self.latest_offset = offset;
    }

    pub fn get(&self, key: u128) -> Option<Offset> {
        let entry = self.entries[self.place_of(key)];
        entry[2].checked_sub(1).map(|offset| Offset(offset as i64))
    }

    /// Where the key is, or would be.
    fn place_of(&self, key: u128) -> usize {
        let (high, low) = ((key >> 64) as u64, key as u64);
        let places = self.entries.len();
        let mut place = ((u128::from(high) * places as u128) >> 64) as usize;
        loop {
            let entry = &self.entries[place];
            if entry[2] == 0 || (entry[0] == high && entry[1] == low) {
                return place;
            }
            place += 1;
            if place == places {
                place = 0;
            }
        }
    }

    pub fn latest_offset(&self) -> Offset {
        self.latest_offset
    }

    pub fn set_latest_offset(&mut self, offset: Offset) {
        self.latest_offset = offset;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn it_is_a_map_until_it_is_full() {
        let mut rng = SmallRng::seed_from_u64(3);
        for (memory, keys_max) in [(24 * 100, 1000), (24 * 100, 20), (24 * 2, 5), (24 * 5000, 3000)] {
            let mut map = OffsetMap::new(memory, 0.9, keys_max);
            let mut model = HashMap::new();
            let mut offset = 0;
            while !map.is_full() && offset < keys_max as i64 {
                // Numbers that crowd at the end of the table too.
                let key = u128::MAX - u128::from(rng.random_range(0..200_u32)) * (1 << rng.random_range(0..120));
                map.put(key, Offset(offset));
                model.insert(key, Offset(offset));
                assert_eq!(map.latest_offset(), Offset(offset));
                offset += 1;
            }
            for (key, offset) in &model {
                assert_eq!(map.get(*key), Some(*offset));
            }
            assert_eq!(map.get(7), None);
            assert_eq!(map.len, model.len());
            assert!(map.entries.len() as u64 * 24 <= memory.max(48));
            assert!(!map.is_full() || map.len as u64 == (memory as f64 / 24.0 * 0.9) as u64);
        }
    }
}
