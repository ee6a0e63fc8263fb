//! The XML of a comparison, held against lines put together from single blocks.

use std::collections::BTreeMap;

use super::*;
use crate::testing::Random;
use crate::tools::delta::{Named, write_delta};

type Model = BTreeMap<u64, u64>;

fn pool(left: &Model, right: &Model) -> (Arc<Pool>, [BlockNr; 2]) {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let roots = [left, right].map(|model| {
        let entries: Vec<_> = model
            .iter()
            .map(|(at, to)| (*at, mapping(*to, 0)))
            .collect();
        builder.tree(&entries, 7)
    });
    builder.device(3, roots[0]);
    builder.device(8, roots[1]);
    (builder.open(), roots)
}

fn written(pool: &Arc<Pool>, sides: [Named; 2], verbose: bool) -> Result<String> {
    let mut out = Vec::new();
    write_delta(pool, sides, verbose, &mut out, &Task::default())?;
    Ok(String::from_utf8(out).unwrap())
}

/// Kind, first block, length, and the data blocks of the first, from single blocks.
fn ranges(left: &Model, right: &Model) -> Vec<(&'static str, u64, u64, [u64; 2])> {
    let mut found: Vec<(&'static str, u64, u64, [u64; 2])> = Vec::new();
    let mut blocks: Vec<u64> = left.keys().chain(right.keys()).copied().collect();
    blocks.sort_unstable();
    blocks.dedup();
    for block in blocks {
        let (one, other) = (left.get(&block), right.get(&block));
        let kind = match (one, other) {
            (Some(_), None) => "left_only",
            (None, _) => "right_only",
            (one, other) if one == other => "same",
            _ => "different",
        };
        match found.last_mut() {
            Some((last, begin, length, _)) if *last == kind && *begin + *length == block => {
                *length += 1;
            }
            _ => {
                let data = [one, other].map(|data| data.copied().unwrap_or_default());
                found.push((kind, block, 1, data));
            }
        }
    }
    found
}

fn plain(left: &Model, right: &Model) -> String {
    let line =
        |(kind, begin, length, _)| format!("    <{kind} begin=\"{begin}\" length=\"{length}\"/>\n");
    ranges(left, right).into_iter().map(line).collect()
}

fn verbose(left: &Model, right: &Model) -> String {
    let mut text = String::new();
    let ranges = ranges(left, right);
    for group in ranges.chunk_by(|one, other| one.0 == other.0) {
        let kind = group[0].0;
        text += &format!("    <{kind}>\n");
        for (kind, begin, length, [one, other]) in group {
            let data = match *kind {
                "different" => format!("left_data_begin=\"{one}\" right_data_begin=\"{other}\""),
                "right_only" => format!("data_begin=\"{other}\""),
                _ => format!("data_begin=\"{one}\""),
            };
            text += &format!("      <range begin=\"{begin}\" {data} length=\"{length}\"/>\n");
        }
        text += &format!("    </{kind}>\n");
    }
    text
}

fn body(xml: &str) -> String {
    let lines = xml.split_inclusive('\n').skip(2);
    let body: String = lines.collect();
    body.strip_suffix("  </diff>\n</superblock>")
        .unwrap()
        .to_owned()
}

#[test]
fn random_volumes_are_told_as_single_blocks_tell_them() {
    let mut random = Random::new(5);
    for _ in 0..100 {
        let mut models = [Model::new(), Model::new()];
        let mut at = 0;
        for _ in 0..random.below(200) {
            at += 1 + u64::from(random.chance(20)) * random.below(9);
            let data = random.below(300);
            let both = random.chance(40);
            for model in &mut models {
                if both || random.chance(60) {
                    model.insert(at, if both { data } else { random.below(300) });
                }
            }
        }
        let [left, right] = models;
        let (pool, _) = pool(&left, &right);
        let sides = [Named::Device(3), Named::Device(8)];
        assert_eq!(
            body(&written(&pool, sides, false).unwrap()),
            plain(&left, &right)
        );
        assert_eq!(
            body(&written(&pool, sides, true).unwrap()),
            verbose(&left, &right)
        );
    }
}

#[test]
fn sides_are_named_as_they_were_asked_for() {
    let model = Model::from([(1, 2)]);
    let (pool, roots) = pool(&model, &model);
    let second = |left, right| {
        let xml = written(&pool, [left, right], false).unwrap();
        xml.lines().nth(1).unwrap().to_owned()
    };
    assert_eq!(
        second(Named::Device(3), Named::Device(8)),
        "  <diff left=\"3\" right=\"8\">"
    );
    let [left, right] = roots.map(Named::Root);
    let expected = format!(
        "  <diff left_root=\"{}\" right_root=\"{}\">",
        roots[0].0, roots[1].0
    );
    assert_eq!(second(left, right), expected);
    for impossible in [0, pool.blocks().nr_blocks()] {
        let sides = [left, Named::Root(BlockNr(impossible))];
        assert!(matches!(written(&pool, sides, false), Err(Error::Usage(_))));
    }
    let sides = [Named::Device(3), Named::Device(4)];
    assert!(matches!(
        written(&pool, sides, false),
        Err(Error::NoSuchDevice(4))
    ));
}
