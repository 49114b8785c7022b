use super::*;

fn compressed(codec: Codec, magic: u8, bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(codec, None, magic, b"head".to_vec());
    for part in bytes.chunks(1000) {
        compressor.put(part);
    }
    let out = compressor.finish();
    assert!(out.starts_with(b"head"));
    out[4..].to_vec()
}

fn inflated(codec: Codec, magic: u8, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Decompressor::new(codec, magic, bytes)?.read_to_end(&mut out)?;
    Ok(out)
}

fn samples() -> Vec<Vec<u8>> {
    let mut noise = 1_u32;
    let noise = (0..200_000).map(|_| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    });
    vec![b"x".to_vec(), b"hello ".repeat(50_000), noise.collect(), vec![0; LZ4_BLOCK_BYTES], vec![0; 1 << 20]]
}

#[test]
fn every_codec_gives_back_what_it_took() {
    for codec in Codec::ALL {
        for magic in 0..3 {
            for sample in samples() {
                let small = compressed(codec, magic, &sample);
                assert!(inflated(codec, magic, &small).unwrap() == sample, "{codec} v{magic} {}", sample.len());
            }
        }
    }
}

#[test]
fn snappy_reads_one_raw_block_and_several_streams() {
    let raw = snap::raw::Encoder::new().compress_vec(&b"hello ".repeat(100)).unwrap();
    assert_eq!(inflated(Codec::Snappy, 2, &raw).unwrap(), b"hello ".repeat(100));
    let stream = compressed(Codec::Snappy, 2, b"twice");
    assert_eq!(inflated(Codec::Snappy, 2, &stream.repeat(2)).unwrap(), b"twicetwice");
}

#[test]
fn a_snappy_block_gets_no_memory_for_a_claim() {
    let mut block = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
    block.extend([0; 100]);
    assert_eq!(inflated(Codec::Snappy, 2, &block).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn lz4_header_checksums_follow_the_magic() {
    let v0 = compressed(Codec::Lz4, 0, b"hello");
    let v2 = compressed(Codec::Lz4, 2, b"hello");
    assert_ne!(v0[6], v2[6]);
    assert_eq!(v0[..6], v2[..6]);
    assert_eq!(v0[7..], v2[7..]);
    assert_eq!(inflated(Codec::Lz4, 0, &v2).unwrap(), b"hello");
    assert_eq!(inflated(Codec::Lz4, 1, &v0).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// A frame with every optional part, as other lz4 libraries write them.
#[test]
fn lz4_optional_parts_are_read_as_kafka_reads_them() {
    let descriptor = [0b0111_1100, 5 << 4, 5, 0, 0, 0, 0, 0, 0, 0];
    let mut frame = [&LZ4_MAGIC[..], &descriptor, &[lz4_header_checksum(&descriptor)]].concat();
    frame.extend((5 | LZ4_STORED_BIT).to_le_bytes());
    frame.extend(b"hello");
    frame.extend(XxHash32::oneshot(0, b"hello").to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(b"bad!");
    assert_eq!(inflated(Codec::Lz4, 2, &frame).unwrap(), b"hello", "the content's checksum is not looked at");
    assert!(inflated(Codec::Lz4, 2, &frame[..frame.len() - 1]).is_err(), "but it must be there");
    let block_checksum_at = frame.len() - 12;
    frame[block_checksum_at] ^= 1;
    assert!(inflated(Codec::Lz4, 2, &frame).is_err());
    let dependent = [0b0100_0000, 4 << 4];
    let frame = [&LZ4_MAGIC[..], &dependent, &[lz4_header_checksum(&dependent)], &[0; 4]].concat();
    assert!(inflated(Codec::Lz4, 2, &frame).is_err());
}

#[test]
fn data_cut_short_is_an_error_and_no_panic() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let whole = compressed(codec, 2, &b"hello world ".repeat(10_000));
        for len in 0..whole.len() {
            // Snappy streams have no end mark: cut between chunks, they are merely shorter.
            if let Ok(bytes) = inflated(codec, 2, &whole[..len]) {
                assert!(len == 0 || codec == Codec::Snappy, "{codec} cut at {len} gave {} bytes", bytes.len());
            }
        }
    }
}

#[test]
fn what_stands_behind_the_compressed_bytes_is_ignored_or_refused_as_each_codec_of_java_does() {
    let sample = b"hello ".repeat(100);
    for trailing in [&b"x"[..], b"garbage that is longer than a member of gzip", &[0; 100], &[0xff; 3]] {
        for codec in [Codec::Gzip, Codec::Lz4] {
            let bytes = [compressed(codec, 2, &sample), trailing.to_vec()].concat();
            assert_eq!(inflated(codec, 2, &bytes).unwrap(), sample, "{codec}: {trailing:?}");
        }
        let bytes = [compressed(Codec::Zstd, 2, &sample), trailing.to_vec()].concat();
        assert!(inflated(Codec::Zstd, 2, &bytes).is_err(), "no frame begins with {trailing:?}");
    }
    let stream = compressed(Codec::Gzip, 2, &sample);
    assert_eq!(inflated(Codec::Gzip, 2, &stream.repeat(3)).unwrap(), sample.repeat(3), "members one after another");
    let mut second_is_broken = stream.repeat(2);
    second_is_broken.truncate(stream.len() * 2 - 5);
    assert!(inflated(Codec::Gzip, 2, &second_is_broken).is_err(), "a member that begins must end");
}

thread_local! {
    pub(super) static INFLATERS: Cell<usize> = const { Cell::new(0) };
}

#[test]
fn a_multitude_of_small_gzip_members_is_read_with_one_inflater() {
    let member = compressed(Codec::Gzip, 2, b"x");
    let before = INFLATERS.get();
    assert_eq!(inflated(Codec::Gzip, 2, &member.repeat(50_000)).unwrap(), b"x".repeat(50_000));
    assert_eq!(INFLATERS.get() - before, 1);
}

/// Any prefix, and any damage, is an error or other bytes; never a panic, and never more memory than a block.
#[test]
fn compressed_bytes_that_are_cut_or_damaged_are_refused() {
    let sample = b"hello ".repeat(20);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let good = compressed(codec, 2, &sample);
        for cut in 0..good.len() {
            if let Ok(out) = inflated(codec, 2, &good[..cut]) {
                assert!(out.len() < sample.len() || out == sample, "{codec} cut at {cut}");
            }
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok(out) = inflated(codec, 2, &bad) {
                    assert!(out.len() <= 1 << 20, "{codec} byte {at} bit {bit}: {} bytes", out.len());
                }
            }
        }
    }
}
