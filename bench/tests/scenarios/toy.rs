//! A small S3 server in memory, one thread per connection, with faults on demand
//! and a journal of what was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    #[default]
    Nothing,
    /// One byte of every body that is read is another.
    Corrupt,
    /// Bodies that are read are one byte short, and say so.
    Short,
    /// Every answer closes the connection.
    CloseAlways,
    /// Connections are closed after the answer without saying so.
    CloseSilently,
    /// Every second request of a connection is taken and never answered.
    DropSecond,
    /// Ranges are what was asked for, but say they begin at 0.
    WrongRange,
    /// Pages begin with a key of another prefix.
    StrangeKey,
    /// Pages leave out their second key and have one more at the end.
    MissingKey,
    /// Overwrites are acked and not done.
    Stale,
    /// Overwrites are done for the first half of the bytes.
    Torn,
    /// Every second answer to a GET is 503.
    SlowDown,
    /// Parts after the first are refused.
    RefuseParts,
    /// GETs are never answered.
    Mute,
    /// GETs end in the middle of the body.
    Break,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) fault: Fault,
    pub(crate) buckets: Vec<String>,
    /// Path with bucket; the tag of this tool.
    pub(crate) objects: BTreeMap<String, (Vec<u8>, bool)>,
    /// Upload id to path and parts.
    pub(crate) uploads: BTreeMap<String, (String, BTreeMap<u32, Vec<u8>>)>,
    /// Method and path with query, in order of arrival.
    pub(crate) journal: Vec<(String, String)>,
    pub(crate) unsigned: usize,
    next_upload: u32,
}

#[derive(Clone)]
pub(crate) struct Toy {
    pub(crate) url: String,
    pub(crate) world: Arc<Mutex<World>>,
}

impl Toy {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let world = Arc::new(Mutex::new(World::default()));
        let shared = Arc::clone(&world);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let world = Arc::clone(&shared);
                // A client that goes away is no matter of the server.
                std::thread::spawn(move || drop(serve(socket.unwrap(), &world)));
            }
        });
        Self { url, world }
    }

    pub(crate) fn with_fault(self, fault: Fault) -> Self {
        self.world.lock().unwrap().fault = fault;
        self
    }

    pub(crate) fn count(&self, method: &str, part_of_path: &str) -> usize {
        let world = self.world.lock().unwrap();
        let fits = |(m, p): &&(String, String)| m == method && p.contains(part_of_path);
        world.journal.iter().filter(fits).count()
    }

    pub(crate) fn forget(&self) {
        self.world.lock().unwrap().journal.clear();
    }
}

struct Ask {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply {
        status,
        headers: Vec::new(),
        body: body.into(),
        chunked: false,
    }
}

fn serve(socket: TcpStream, world: &Mutex<World>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut writer = socket;
    let mut asked = 0_u32;
    while let Some(ask) = read(&mut reader)? {
        asked += 1;
        let fault = world.lock().unwrap().fault;
        let get = ask.method == "GET" && ask.query.is_empty();
        if get && fault == Fault::Mute {
            std::thread::sleep(std::time::Duration::from_secs(20));
            return Ok(());
        }
        if fault == Fault::DropSecond && asked == 2 {
            return Ok(());
        }
        let answer = answer(&ask, &mut world.lock().unwrap());
        let text = encode(&ask, &answer, fault);
        if get && fault == Fault::Break {
            return writer.write_all(&text[..text.len() / 2]);
        }
        writer.write_all(&text)?;
        if matches!(fault, Fault::CloseAlways | Fault::CloseSilently) {
            return Ok(());
        }
    }
    Ok(())
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Ask>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap().to_owned(),
        words.next().unwrap().to_owned(),
    );
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let decode = |t: &str| {
        percent_encoding::percent_decode_str(t)
            .decode_utf8()
            .unwrap()
            .into_owned()
    };
    let pairs = query.split('&').filter(|p| !p.is_empty());
    let query = pairs
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (k.to_owned(), decode(v)));
    Ok(Some(Ask {
        method,
        path: decode(path),
        query: query.collect(),
        headers,
        body,
    }))
}

fn answer(ask: &Ask, world: &mut World) -> Reply {
    let words: Vec<String> = ask.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
    world.journal.push((
        ask.method.clone(),
        format!("{}?{}", ask.path, words.join("&")),
    ));
    world.unsigned += usize::from(!ask.headers.contains_key("authorization"));
    let tagged = ask
        .headers
        .get("x-amz-meta-quickwater-bench")
        .is_some_and(|v| v == "1");
    let query = |name: &str| ask.query.get(name).cloned();
    if !ask.path[1..].contains('/') {
        return bucket(ask, world);
    }
    match (ask.method.as_str(), query("uploadId")) {
        ("POST", None) => {
            world.next_upload += 1;
            let id = format!("upload/{}", world.next_upload);
            world
                .uploads
                .insert(id.clone(), (ask.path.clone(), BTreeMap::new()));
            reply(200, format!("<R><UploadId>{id}</UploadId></R>"))
        }
        ("PUT", Some(id)) => {
            let number: u32 = query("partNumber").unwrap().parse().unwrap();
            if world.fault == Fault::RefuseParts && number > 1 {
                return reply(500, "<Error><Code>InternalError</Code></Error>");
            }
            world
                .uploads
                .get_mut(&id)
                .unwrap()
                .1
                .insert(number, ask.body.clone());
            let mut reply = reply(200, "");
            reply
                .headers
                .push(("ETag".into(), format!("\"part{number}\"")));
            reply
        }
        ("POST", Some(id)) => {
            let (path, parts) = world.uploads.remove(&id).unwrap();
            let text = String::from_utf8_lossy(&ask.body).into_owned();
            for number in parts.keys() {
                assert!(
                    text.contains(&format!(
                        "<PartNumber>{number}</PartNumber><ETag>&quot;part{number}&quot;"
                    )),
                    "{text}"
                );
            }
            world
                .objects
                .insert(path, (parts.into_values().flatten().collect(), true));
            reply(200, "<CompleteMultipartUploadResult/>")
        }
        ("DELETE", Some(id)) => {
            world.uploads.remove(&id);
            reply(204, "")
        }
        ("PUT", None) => {
            let old = world.objects.get(&ask.path).map(|(bytes, _)| bytes);
            let body = match (world.fault, old) {
                (Fault::Stale, Some(old)) => old.clone(),
                (Fault::Torn, Some(old)) => {
                    let (half, _) = ask.body.split_at(ask.body.len() / 2);
                    [half, &old[half.len()..]].concat()
                }
                _ => ask.body.clone(),
            };
            world.objects.insert(ask.path.clone(), (body, tagged));
            reply(200, "")
        }
        ("DELETE", None) => {
            world.objects.remove(&ask.path);
            reply(204, "")
        }
        ("GET" | "HEAD", _) => object(ask, world),
        other => panic!("{other:?}"),
    }
}

fn bucket(ask: &Ask, world: &mut World) -> Reply {
    let name = ask.path[1..].to_owned();
    match ask.method.as_str() {
        "PUT" => {
            world.buckets.push(name);
            reply(200, "")
        }
        "HEAD" if world.buckets.contains(&name) => reply(200, ""),
        "HEAD" => reply(404, ""),
        "GET" => {
            let query = |name: &str| ask.query[name].clone();
            let (prefix, after) = (query("prefix"), query("start-after"));
            let most: usize = query("max-keys").parse().unwrap();
            let keys = world
                .objects
                .keys()
                .filter_map(|k| k.strip_prefix(&format!("/{name}/")));
            let all = keys.filter(|k| k.starts_with(&prefix) && **k > *after);
            let mut page: Vec<String> = match world.fault {
                Fault::MissingKey => all
                    .enumerate()
                    .filter(|(n, _)| *n != 1)
                    .map(|(_, k)| k.to_owned())
                    .take(most)
                    .collect(),
                _ => all.map(str::to_owned).take(most).collect(),
            };
            if let (Fault::StrangeKey, Some(first)) = (world.fault, page.first_mut()) {
                *first = "0-stranger".into();
            }
            let text: String = page
                .iter()
                .map(|k| format!("<Contents><Key>{k}</Key></Contents>"))
                .collect();
            let mut reply = reply(200, format!("<ListBucketResult>{text}</ListBucketResult>"));
            reply.chunked = true;
            reply
        }
        other => panic!("{other}"),
    }
}

fn object(ask: &Ask, world: &World) -> Reply {
    let Some((bytes, tagged)) = world.objects.get(&ask.path) else {
        return reply(404, "<Error><Code>NoSuchKey</Code></Error>");
    };
    if world.fault == Fault::SlowDown
        && ask.method == "GET"
        && world.journal.len().is_multiple_of(2)
    {
        return reply(
            503,
            "<Error><Code>SlowDown</Code><Message>later</Message></Error>",
        );
    }
    let mut answer = reply(200, bytes.clone());
    if let Some(range) = ask.headers.get("range") {
        let (first, last) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        answer = reply(206, bytes[first..=last].to_vec());
        let said = if world.fault == Fault::WrongRange {
            0
        } else {
            first
        };
        let range = format!("bytes {said}-{}/{}", said + last - first, bytes.len());
        answer.headers.push(("Content-Range".into(), range));
    }
    match world.fault {
        Fault::Corrupt if ask.method == "GET" => *answer.body.last_mut().unwrap() ^= 1,
        Fault::Short if ask.method == "GET" => drop(answer.body.pop()),
        _ => {}
    }
    if *tagged {
        answer
            .headers
            .push(("x-amz-meta-quickwater-bench".into(), "1".into()));
    }
    answer
        .headers
        .push(("x-quickwater-cache".into(), "hit".into()));
    answer
}

fn encode(ask: &Ask, reply: &Reply, fault: Fault) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {} Whatever\r\n", reply.status).into_bytes();
    for (name, value) in &reply.headers {
        out.extend(format!("{name}: {value}\r\n").bytes());
    }
    if fault == Fault::CloseAlways {
        out.extend(b"Connection: close\r\n");
    }
    if reply.chunked {
        out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in reply.body.chunks(777) {
            out.extend(format!("{:x}\r\n", chunk.len()).bytes());
            out.extend(chunk);
            out.extend(b"\r\n");
        }
        out.extend(b"0\r\n\r\n");
        return out;
    }
    if reply.status != 204 {
        out.extend(format!("Content-Length: {}\r\n", reply.body.len()).bytes());
    }
    out.extend(b"\r\n");
    if ask.method != "HEAD" && reply.status != 204 {
        out.extend(&reply.body);
    }
    out
}
