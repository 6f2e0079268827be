//! Placement in a pool of sixty servers is even, and little more moves than has to. The large ones: `--bin scale`.

use placement::Layout;
use sim::scale::Shape;

#[test]
fn a_pool_of_sixty_servers_is_even_and_moves_little() {
    let shape = Shape { racks: 12, servers_per_rack: 5, targets_per_server: 4 };
    let layout = Layout::new(shape.map().unwrap());
    let balance = shape.balance(&layout);
    assert!(balance.slots < 1.35 && balance.led < 1.6 && balance.server_slots < 1.2, "{balance:?}");
    // Every server outside its rack helps to rebuild one.
    assert_eq!(balance.partners, 55);
    let failed = shape.failure(&layout, u32::MAX).unwrap();
    assert_eq!(failed.slots as f64, failed.optimum, "a failure moves what the failed held, and nothing else");
    let server = shape.growth(&layout, 1, false, u32::MAX).unwrap();
    let rack = shape.growth(&layout, 5, true, u32::MAX).unwrap();
    assert!(server.ratio() < 1.25 && rack.ratio() < 1.25, "{server:?} {rack:?}");
    assert!(server.ratio() > 0.8 && rack.ratio() > 0.8, "{server:?} {rack:?}");
}
