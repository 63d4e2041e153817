//! Near-duplicates together.

use super::{Place, View};
use crate::codes::{ItemCodes, Probe, Scratch, Shape};
use rayon::prelude::*;

/// Leaders that a hit is compared with, the last ones before it: what shows the same answers a query nearly alike.
const WINDOW: usize = 256;
/// Hits whose probes are in memory at a time: 64 KB each for 32 vectors of 256 values.
const AT_A_TIME: usize = 64;
/// How much less alike than wanted two items may seem by the first layer of codes.
const ROUGHLY: f32 = 0.1;

impl View {
    /// Puts each of `hits`, which are in order, into the group of the first one that shows the same: whose vectors are `alike` or
    /// more, from -1 to 1, as far as codes tell. There are at most `most` groups; what would lead another one is left out.
    /// Groups are in order, each with its leader first, as places in `hits`.
    pub fn groups(&self, hits: &[Place], alike: f32, most: usize) -> Vec<Vec<usize>> {
        let coded: Vec<Option<Coded<'_>>> = hits.iter().map(|hit| self.coded(*hit)).collect();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (chunk, hits) in coded.chunks(AT_A_TIME).enumerate() {
            let probes: Vec<Option<Probe>> =
                hits.par_iter().map(|hit| hit.map(|(shape, codes)| Probe::of_item(shape, codes))).collect();
            for (place, (probe, own)) in probes.iter().zip(hits).enumerate() {
                let hit = chunk * AT_A_TIME + place;
                let first = groups.len().saturating_sub(WINDOW);
                let found = probe.as_ref().zip(*own).and_then(|(probe, (_, own))| {
                    let rough = (alike - ROUGHLY) * probe.first(own.first);
                    let same = |scratch: &mut Scratch, group: &Vec<usize>| {
                        let leader = group.first().and_then(|leader| coded[*leader]);
                        leader.is_some_and(|(shape, codes)| {
                            shape == probe.shape()
                                && probe.first(codes.first) >= rough
                                && probe.all(codes, scratch).0 >= alike
                        })
                    };
                    let leaders = groups[first..].par_iter().with_min_len(WINDOW / 8);
                    leaders.map_init(Scratch::default, same).position_first(|same| same)
                });
                match found {
                    Some(place) => groups[first + place].push(hit),
                    None if groups.len() < most => groups.push(vec![hit]),
                    None => {}
                }
            }
        }
        groups
    }

    /// The codes of an item.
    fn coded(&self, place: Place) -> Option<Coded<'_>> {
        let (segment, record) = self.row(self.vectors(place)?);
        Some((segment.shape(), segment.codes(record.code? as usize)))
    }
}

type Coded<'a> = (Shape, ItemCodes<'a>);
