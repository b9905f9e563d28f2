//! Runs the test server: `quickwater-foundationdb-testserver CLUSTER_FILE` takes a
//! free port, or that of the file when there is one, writes the cluster file that the
//! test library reads, and serves until it is killed.

use std::error::Error;
use std::net::TcpListener;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which cluster file?")?;
    let before = std::fs::read_to_string(&path).ok();
    let address = before
        .as_deref()
        .and_then(|text| text.trim().split_once('@'))
        .map_or("127.0.0.1:0", |(_, address)| address);
    let listener = TcpListener::bind(address)?;
    std::fs::write(&path, format!("test:remote@{}\n", listener.local_addr()?))?;
    quickwater_foundationdb_testlib::serve(&listener)?;
    Ok(())
}
