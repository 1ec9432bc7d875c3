//! [`PortMapping`]: the sockets of [`crate::portmap`], in a task of its own, so that a slow router holds up nobody.
//!
//! The driver says where a mapping is wanted and is told what came of it. At the end the mapping is given back.

mod http;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::or_never::or_never;
use crate::portmap::machine::{Action, Portmapper, Wish};
use crate::portmap::{Place, igd, ssdp};

/// NAT-PMP and PCP.
const PORT: u16 = 5_351;
/// The longest datagram that is one of theirs, or of SSDP.
const BUFFER: usize = 4_096;
/// Devices are told to answer within two seconds.
const SEARCH: Duration = Duration::from_secs(3);
/// All of a talk with a UPnP device.
const TALK: Duration = Duration::from_secs(5);
/// Giving back must not hold up the end.
const RELEASE: Duration = Duration::from_millis(500);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct PortMapping {
    /// Nothing once it is to end.
    place: Option<watch::Sender<Option<Place>>>,
    mapped: watch::Receiver<Option<SocketAddrV4>>,
    task: Option<JoinHandle<()>>,
}

impl PortMapping {
    /// Starts without a place, on the current runtime.
    pub(crate) fn start() -> Self {
        let (place, wanted) = watch::channel(None);
        let (telling, mapped) = watch::channel(None);
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).expect("the operating system provides randomness");
        let task = Task {
            mapper: Portmapper::new(nonce),
            wanted,
            telling,
            link: None,
            talk: None,
        };
        // Ends when the sender of places is dropped.
        let task = tokio::spawn(task.run());
        Self {
            place: Some(place),
            mapped,
            task: Some(task),
        }
    }

    /// Where a mapping is wanted.
    pub(crate) fn set_place(&self, wanted: Option<Place>) {
        if let Some(place) = &self.place {
            place.send_if_modified(|known| {
                let before = std::mem::replace(known, wanted);
                before != *known
            });
        }
    }

    /// Waits until there is another mapping than before.
    ///
    /// # Cancel safety
    /// What was not taken is there the next time.
    pub(crate) async fn changed(&mut self) -> Option<SocketAddrV4> {
        if self.mapped.changed().await.is_err() {
            return std::future::pending().await;
        }
        *self.mapped.borrow_and_update()
    }

    /// Gives the mapping back, if that goes fast.
    pub(crate) async fn shutdown(&mut self) {
        self.place = None;
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(RELEASE, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

type Talking = Pin<Box<dyn Future<Output = Option<igd::Mapping>> + Send>>;

struct Task {
    mapper: Portmapper,
    wanted: watch::Receiver<Option<Place>>,
    telling: watch::Sender<Option<SocketAddrV4>>,
    link: Option<Link>,
    talk: Option<Talking>,
}

/// The sockets towards one gateway.
struct Link {
    place: Place,
    /// Connected: what others send does not arrive.
    gateway: UdpSocket,
    search: Option<(UdpSocket, Instant)>,
}

enum Woken {
    Place(bool),
    Datagram(usize),
    Device(usize, IpAddr),
    Talked(Option<igd::Mapping>),
    Time,
}

impl Task {
    async fn run(mut self) {
        let mut buffer = vec![0; BUFFER].into_boxed_slice();
        loop {
            self.carry_out().await;
            let woken = self.wait(&mut buffer).await;
            let now = Instant::now();
            match woken {
                Woken::Place(true) => {
                    let place = *self.wanted.borrow_and_update();
                    self.move_to(place, now).await;
                }
                Woken::Place(false) => {
                    self.talk = None;
                    self.mapper.release();
                    self.carry_out().await;
                    return;
                }
                Woken::Datagram(len) => self.mapper.handle_datagram(&buffer[..len], now),
                Woken::Device(len, from) => self.note_device(&buffer[..len], from, now),
                Woken::Talked(mapping) => {
                    self.talk = None;
                    self.mapper.handle_talk(mapping, now);
                }
                Woken::Time => self.mapper.handle_timeout(now),
            }
            if let Some(link) = &mut self.link
                && link.search.as_ref().is_some_and(|(_, until)| now >= *until)
            {
                link.search = None;
            }
        }
    }

    async fn wait(&mut self, buffer: &mut [u8]) -> Woken {
        let deadline = self.mapper.poll_timeout();
        let search = self.link.as_ref().and_then(|link| link.search.as_ref());
        let until = search.map(|(_, until)| *until);
        let mut answer = [0; BUFFER];
        let woken = tokio::select! {
            changed = self.wanted.changed() => Woken::Place(changed.is_ok()),
            mapping = or_never(self.talk.as_mut()) => Woken::Talked(mapping),
            len = or_never(self.link.as_ref().map(|link| received(&link.gateway, buffer))) => Woken::Datagram(len),
            (len, from) = or_never(search.map(|(socket, _)| found(socket, &mut answer))) => Woken::Device(len, from),
            () = or_never([deadline, until].into_iter().flatten().min().map(|at| sleep_until(at.into()))) => Woken::Time,
        };
        if let Woken::Device(len, _) = woken {
            buffer[..len].copy_from_slice(&answer[..len]);
        }
        woken
    }

    /// The old mapping is given back where its gateway can still be reached.
    async fn move_to(&mut self, place: Option<Place>, now: Instant) {
        self.talk = None;
        self.mapper.release();
        self.carry_out().await;
        self.link = None;
        if let Some(place) = place {
            match Link::open(place).await {
                Ok(link) => self.link = Some(link),
                Err(error) => tracing::debug!(%error, gateway = %place.gateway, "no port mapping"),
            }
        }
        let place = self.link.as_ref().map(|link| link.place);
        self.mapper.set_place(place, now);
    }

    async fn carry_out(&mut self) {
        while let Some(action) = self.mapper.poll_action() {
            if let Action::Changed(mapped) = action {
                tracing::info!(?mapped, "the router's mapping of our port");
                self.telling.send_replace(mapped);
            }
            let Some(link) = &mut self.link else { continue };
            match action {
                Action::Send(datagram) => {
                    let _ = link.gateway.send(&datagram).await;
                }
                Action::Search => link.search().await,
                Action::Talk(wish) => self.talk = Some(Box::pin(talk(link.place, wish))),
                Action::Delete(mapping) => {
                    let request = igd::delete_request(&mapping);
                    let _ = tokio::time::timeout(RELEASE, http::ask(link.place.gateway, &request)).await;
                }
                Action::Changed(_) => {}
            }
        }
    }

    /// A device of somebody else than the gateway may speak for it: then it has the gateway's own address besides.
    fn note_device(&mut self, datagram: &[u8], from: IpAddr, now: Instant) {
        let near = matches!(from, IpAddr::V4(from) if from.is_private());
        if let Some(device) = ssdp::parse(datagram).filter(|_| near) {
            self.mapper.handle_device(device, now);
        }
    }
}

impl Link {
    async fn open(place: Place) -> io::Result<Self> {
        let gateway = UdpSocket::bind((place.own, 0)).await?;
        gateway.connect((place.gateway, PORT)).await?;
        Ok(Self {
            place,
            gateway,
            search: None,
        })
    }

    /// Best effort: a device that is not found maps nothing.
    async fn search(&mut self) {
        let Ok(socket) = UdpSocket::bind((self.place.own, 0)).await else {
            return;
        };
        let _ = socket2::SockRef::from(&socket).set_multicast_if_v4(&self.place.own);
        for (to, text) in ssdp::searches(self.place.gateway) {
            let _ = socket.send_to(text.as_bytes(), (to, ssdp::PORT)).await;
        }
        self.search = Some((socket, Instant::now() + SEARCH));
    }
}

async fn talk(place: Place, wish: Wish) -> Option<igd::Mapping> {
    let mut talk = match wish {
        Wish::New { description, external } => igd::Talk::new(place, description, external),
        Wish::Renew(mapping) => igd::Talk::renew(place, &mapping),
    };
    let all = async {
        while let Some(request) = talk.next() {
            let answer = http::ask(place.gateway, &request).await;
            let response = answer.as_ref().map(|(ok, body)| igd::Response { ok: *ok, body });
            talk.handle(response);
        }
    };
    tokio::time::timeout(TALK, all).await.ok()?;
    talk.into_mapping()
}

/// A refused connection is silence: the machine counts its own tries.
async fn received(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
    loop {
        if let Ok(len) = socket.recv(buffer).await {
            return len;
        }
    }
}

async fn found(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, IpAddr) {
    loop {
        if let Ok((len, from)) = socket.recv_from(buffer).await {
            return (len, from.ip());
        }
    }
}

/// Where a mapping could be had, from what is known of the network.
pub(crate) fn place(gateway: Option<IpAddr>, own: Option<IpAddr>, port: u16) -> Option<Place> {
    let v4 = |ip| match ip {
        Some(IpAddr::V4(ip)) => Some(ip),
        Some(IpAddr::V6(_)) | None => None,
    };
    let (gateway, own): (Ipv4Addr, Ipv4Addr) = (v4(gateway)?, v4(own)?);
    Place::new(gateway, own, port)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
