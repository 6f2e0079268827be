//! Arrays.

use client::{Array, ArrayShape, Code, IoBuf, ObjectClass, ObjectType};

use crate::fake::Fake;

async fn array(fake: &Fake, record_bytes: u32, chunk_records: u64) -> Array {
    let container = fake.container().await;
    let oid = container.new_object(ObjectType::ArrayByte, None).await.unwrap();
    container.array(oid, ArrayShape { record_bytes, chunk_records })
}

fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn what_is_written_is_read_at_any_offset() {
    rt::block_on(async {
        let fake = Fake::start(3).await;
        let array = array(&fake, 1, 1000).await;
        let data = pattern(0, 25_000);
        array.write(0, &data).await.unwrap();
        assert_eq!(array.size().await.unwrap(), 25_000);
        for (start, count) in [(0, 25_000), (999, 2), (1000, 1000), (12_345, 5678), (24_999, 1)] {
            assert_eq!(array.read(start as u64, count as u64).await.unwrap(), data[start..start + count]);
            let mut buffer = vec![0xee; count];
            assert_eq!(array.read_into(start as u64, &mut buffer).await.unwrap(), count);
            assert_eq!(buffer, data[start..start + count]);
        }
        array.write(5_500, &[0xff; 1000]).await.unwrap();
        let found = array.read(5_400, 1200).await.unwrap();
        assert_eq!(found[..100], data[5_400..5_500]);
        assert!(found[100..1100].iter().all(|&byte| byte == 0xff));
        assert_eq!(found[1100..], data[6_500..6_600]);
    });
}

#[test]
fn holes_read_as_zeros_and_reads_end_where_the_array_ends() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let array = array(&fake, 1, 100).await;
        assert_eq!(array.read(0, 10).await.unwrap().len(), 0);
        array.write(1050, b"end").await.unwrap();
        assert_eq!(array.size().await.unwrap(), 1053);
        assert_eq!(array.read(10, 20).await.unwrap(), vec![0; 20]);
        assert_eq!(array.read(1040, 50).await.unwrap(), [&[0; 10][..], b"end"].concat());
        assert_eq!(array.read(1053, 50).await.unwrap().len(), 0);
        assert_eq!(array.read(5000, 50).await.unwrap().len(), 0);
        let all = array.read(0, 1 << 40).await.unwrap();
        assert_eq!((all.len(), &all[1050..]), (1053, &b"end"[..]));
        let mut buffer = vec![0xee; 1100];
        assert_eq!(array.read_into(1000, &mut buffer).await.unwrap(), 53);
        assert_eq!(buffer[..53], [&[0; 50][..], b"end"].concat());
    });
}

#[test]
fn a_huge_hole_is_not_read_into_memory() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let array = array(&fake, 1, 1 << 20).await;
        array.write(3 << 30, b"x").await.unwrap();
        let error = array.read(0, 1 << 40).await.unwrap_err();
        assert_eq!(error.code, Code::Invalid);
        assert!(error.message.contains("returns at most"), "{error}");
    });
}

#[test]
fn sizes_are_set_up_and_down() {
    rt::block_on(async {
        let fake = Fake::start(3).await;
        let array = array(&fake, 1, 100).await;
        let data = pattern(0, 1000);
        // One past a chunk's first record: upstream once left stale extents there.
        for size in [1000u64, 901, 900, 899, 850, 500, 401, 400, 1, 0] {
            array.write(0, &data).await.unwrap();
            array.set_size(size).await.unwrap();
            assert_eq!(array.size().await.unwrap(), size);
            assert_eq!(array.read(0, 2000).await.unwrap(), data[..size as usize]);
            array.set_size(1000).await.unwrap();
            assert_eq!(array.size().await.unwrap(), 1000);
            let grown = array.read(0, 2000).await.unwrap();
            assert_eq!(grown[..size as usize], data[..size as usize]);
            assert!(grown[size as usize..].iter().all(|&byte| byte == 0), "{size}");
        }
        // Cut into a hole: the end stays where it was put.
        array.set_size(0).await.unwrap();
        array.write(990, b"0123456789").await.unwrap();
        array.set_size(333).await.unwrap();
        assert_eq!(array.size().await.unwrap(), 333);
    });
}

#[test]
fn punched_ranges_read_as_zeros() {
    rt::block_on(async {
        let fake = Fake::start(3).await;
        let array = array(&fake, 1, 100).await;
        let data = pattern(0, 1000);
        for (start, count) in [(0, 10), (50, 100), (100, 100), (130, 555), (0, 999)] {
            array.write(0, &data).await.unwrap();
            array.punch(start, count).await.unwrap();
            let mut expected = data.clone();
            expected[start as usize..(start + count) as usize].fill(0);
            assert_eq!(array.read(0, 2000).await.unwrap(), expected, "{start}+{count}");
        }
        array.write(0, &data).await.unwrap();
        array.punch(450, 1 << 50).await.unwrap();
        assert_eq!(array.size().await.unwrap(), 450);
        array.punch(900, 10).await.unwrap();
        array.destroy().await.unwrap();
        assert_eq!(array.size().await.unwrap(), 0);
    });
}

/// The highest chunk may be there with nothing in it, when its records were punched one by one.
#[test]
fn an_emptied_last_chunk_does_not_hide_the_end() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let array = array(&fake, 1, 100).await;
        array.write(0, &[1; 1000]).await.unwrap();
        for chunk in [8, 9] {
            let (dkey, all) = (client::Key::from(chunk + 1), [client::Extent::new(0, 100)]);
            let akey = client::Key::literal("0");
            array.object().punch_extents(&dkey, &akey, &all, client::Conditions::None).await.unwrap();
        }
        assert_eq!(array.size().await.unwrap(), 800);
    });
}

#[test]
fn records_are_whole_and_of_one_size() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let array = array(&fake, 8, 10).await;
        let data = pattern(0, 8 * 25);
        array.write(3, &data).await.unwrap();
        assert_eq!(array.size().await.unwrap(), 28);
        assert_eq!(array.read(4, 100).await.unwrap(), data[8..]);
        assert_eq!(array.write(0, &data[..12]).await.unwrap_err().code, Code::Invalid);
        let other =
            array.object().container().array(array.object().id(), ArrayShape { record_bytes: 4, chunk_records: 10 });
        assert_eq!(other.read(5, 1).await.unwrap_err().code, Code::RecordSize);
    });
}

#[test]
fn given_buffers_are_written() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let array = array(&fake, 1, 10_000).await;
        let data = pattern(0, 30_000);
        array.write_buf(0, IoBuf::from_slice(&data[..8_000])).await.unwrap();
        array.write_buf(8_000, IoBuf::from_slice(&data[8_000..])).await.unwrap();
        assert_eq!(array.read(0, 30_000).await.unwrap(), data);
    });
}

#[test]
fn pieces_are_under_way_together_within_the_bound() {
    rt::block_on(async {
        let fake = Fake::start(4).await;
        let container = fake.container().await;
        let oid = container.new_object(ObjectType::ArrayByte, Some(ObjectClass::SX)).await.unwrap();
        let array = container.array(oid, ArrayShape { record_bytes: 1, chunk_records: 64 });
        fake.most_under_way();
        array.write(0, &pattern(0, 64 * 100)).await.unwrap();
        let most = fake.most_under_way();
        assert!((4..=client::IN_FLIGHT_MAX).contains(&most), "{most} at once");
        array.read(0, 64 * 100).await.unwrap();
        let most = fake.most_under_way();
        assert!((4..=client::IN_FLIGHT_MAX).contains(&most), "{most} at once");
    });
}
