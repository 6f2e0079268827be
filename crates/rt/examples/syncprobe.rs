use rt::disk::*;
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    rt::block_on(async {
        let mode = OpenMode { create: true, direct: true, exclusive_lock: false };
        let disk = Disk::open(format!("{dir}/probe"), mode).unwrap();
        disk.write_now(0, &vec![1u8; 64 << 20]).unwrap();
        disk.sync_now().unwrap();
        for round in 0..2 {
            for way in 0..4 {
                let mut times = vec![];
                for i in 0..1500u64 {
                    let buf = IoBuf::zeroed(4096);
                    let t = rt::now();
                    let off = (i * 4096) % (64 << 20);
                    match way {
                        0 => {
                            disk.write_now(off, &buf).unwrap();
                            disk.sync_now().unwrap();
                        }
                        1 => {
                            disk.write(off, buf).await.0.unwrap();
                            disk.sync().await.unwrap();
                        }
                        2 => {
                            disk.write(off, buf).await.0.unwrap();
                            disk.sync_now().unwrap();
                        }
                        _ => {
                            disk.write(off, buf).await.0.unwrap();
                        }
                    }
                    times.push(t.elapsed().as_nanos() as u64 / 100);
                }
                times.sort();
                println!("{round} way {way}: p50 {} p90 {} p99 {} (0.1us)", times[750], times[1350], times[1485]);
            }
            let mut times = vec![];
            for i in 0..1500u64 {
                let buf = IoBuf::for_read(4096);
                let t = rt::now();
                disk.read((i * 7919 % 16384) * 4096, buf).await.0.unwrap();
                times.push(t.elapsed().as_nanos() as u64 / 100);
            }
            times.sort();
            println!("{round} ring read: p50 {} p90 {} p99 {}", times[750], times[1350], times[1485]);
            let mut times = vec![];
            for i in 0..1500u64 {
                let mut buf = IoBuf::for_read(4096);
                let t = rt::now();
                disk.read_now((i * 7919 % 16384) * 4096, &mut buf).unwrap();
                times.push(t.elapsed().as_nanos() as u64 / 100);
            }
            times.sort();
            println!("{round} pread: p50 {} p90 {} p99 {}", times[750], times[1350], times[1485]);
        }
        // depth 32 reads
        let t = rt::now();
        let mut set = tokio::task::JoinSet::new();
        for w in 0..64u64 {
            let disk = disk.clone();
            set.spawn(async move {
                let mut buf = IoBuf::for_read(4096);
                for i in 0..500u64 {
                    let (r, b) = disk.read(((w * 500 + i) * 7919 % 16384) * 4096, buf).await;
                    r.unwrap();
                    buf = b;
                }
            });
        }
        while set.join_next().await.is_some() {}
        println!("qd64 reads/s {}", 32000.0 / t.elapsed().as_secs_f64());
    });
}
