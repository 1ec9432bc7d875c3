//! The monitor in a network namespace of its own, where `ip` changes what it watches.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Change, NetMonitor};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "SANDD_TEST_INSIDE_NAMESPACE";

#[test]
fn the_kernel_tells_of_every_change_that_matters() {
    let usable = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !usable("unshare", &["--net", "true"]) || !usable("ip", &["-V"]) {
        eprintln!("skipped: it needs root and the programs unshare and ip");
        return;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "io::netmon::tests::inside_a_namespace", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

/// Does nothing unless the test above starts it.
#[test]
fn inside_a_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let story = async { tokio::time::timeout(Duration::from_secs(60), story()).await.unwrap() };
    runtime.block_on(story);
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn index(interface: &str) -> u32 {
    let shown = Command::new("ip")
        .args(["-o", "link", "show", interface])
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    text.split(':').next().unwrap().parse().unwrap()
}

/// As the driver does: waits for news or the time to look, until something has changed.
async fn change(monitor: &mut NetMonitor) -> Change {
    loop {
        let at = monitor
            .poll_timeout()
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        monitor.note_deadline(at);
        tokio::select! {
            () = monitor.news() => {}
            () = tokio::time::sleep_until(at.into()) => {}
        }
        if let Some(change) = monitor.poll(&["100.64.0.1".parse().unwrap()], Instant::now()) {
            return change;
        }
    }
}

/// Changes until the monitor shows what is wanted; gives the last one. One call of `ip` is told in several pieces.
async fn until(monitor: &mut NetMonitor, wanted: impl Fn(&super::Network) -> bool) -> Change {
    loop {
        let last = change(monitor).await;
        if wanted(monitor.network()) {
            return last;
        }
    }
}

async fn story() {
    ip("link add own type veth peer name owned");
    ip("link add lan0 type veth peer name far0");
    for link in ["own", "owned", "lan0", "far0"] {
        // What the kernel does by itself a second later would be news of its own.
        ip(&format!("link set {link} addrgenmode none"));
    }
    for link in ["own", "owned", "far0"] {
        ip(&format!("link set {link} up"));
    }
    let mut monitor = NetMonitor::start(Some(index("own")), Instant::now());
    assert!(monitor.watch.is_some(), "this kernel has netlink");
    assert!(monitor.network().addresses.is_empty());
    assert_eq!(monitor.network().v4, None);

    // An address and a way out appear.
    let (first, second): (IpAddr, IpAddr) = ("192.168.1.2".parse().unwrap(), "192.168.1.77".parse().unwrap());
    ip("link set lan0 up");
    ip("addr add 192.168.1.2/24 dev lan0");
    assert_eq!(
        until(&mut monitor, |network| network.addresses.contains(&first)).await,
        Change::Gained
    );
    ip("route add default via 192.168.1.1");
    assert_eq!(
        until(&mut monitor, |network| network.v4.is_some()).await,
        Change::Gained
    );
    let uplink = monitor.network().v4.unwrap();
    assert_eq!(uplink.gateway, Some("192.168.1.1".parse().unwrap()));
    assert_eq!(uplink.source, Some(first));

    // Another router.
    ip("route replace default via 192.168.1.254");
    assert_eq!(change(&mut monitor).await, Change::Moved);

    // Another address, in the pieces in which a system does it.
    ip("addr del 192.168.1.2/24 dev lan0");
    assert_eq!(
        until(&mut monitor, |network| !network.addresses.contains(&first)).await,
        Change::Moved
    );
    let told = Instant::now();
    ip("addr add 192.168.1.77/24 dev lan0");
    ip("route add default via 192.168.1.1");
    until(&mut monitor, |network| {
        network.addresses.contains(&second) && network.v4.is_some()
    })
    .await;
    assert!(told.elapsed() < Duration::from_millis(500), "{:?}", told.elapsed());

    // A second family.
    ip("addr add 2001:db8:1::2/64 dev lan0 nodad");
    ip("-6 route add default via 2001:db8:1::1");
    until(&mut monitor, |network| network.v6.is_some()).await;
    assert_eq!(monitor.network().addresses.len(), 2);
    assert_eq!(
        monitor.network().v6.unwrap().gateway,
        Some("2001:db8:1::1".parse().unwrap())
    );

    // An address comes and goes, and the ways out stay.
    let third: IpAddr = "10.9.9.9".parse().unwrap();
    ip("addr add 10.9.9.9/32 dev lan0");
    assert_eq!(change(&mut monitor).await, Change::Gained);
    ip("addr del 10.9.9.9/32 dev lan0");
    assert_eq!(change(&mut monitor).await, Change::Lost);
    assert!(!monitor.network().addresses.contains(&third));

    own_device_is_no_news(&mut monitor).await;

    // The cable is pulled.
    ip("link set far0 down");
    assert_eq!(
        until(&mut monitor, |network| network.addresses.is_empty()).await,
        Change::Moved
    );
}

/// Addresses and routes of the node's own device come and go with the mesh: they do not even wake the driver.
async fn own_device_is_no_news(monitor: &mut NetMonitor) {
    monitor.look(&[], Instant::now());
    ip("addr add 100.64.0.1/32 dev own");
    ip("route add 100.64.0.0/10 dev own");
    ip("route del 100.64.0.0/10 dev own");
    // Messages are there when the program that caused them has ended.
    tokio::select! {
        biased;
        () = monitor.news() => panic!("the own device was news"),
        () = tokio::time::sleep(Duration::ZERO) => {}
    }
    assert_eq!(monitor.poll_timeout(), None);
}
