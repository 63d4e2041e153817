//! Stands before an S3 server: passes requests on, one a connection, except those that a rule answers.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Passes requests on to the server at `target` (a URL), except those whose head `rule` answers. Returns its own URL; it ends
/// with the runtime of the test.
pub async fn front(target: &str, rule: impl FnMut(&str) -> Option<String> + Send + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let target = target.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let rule = std::sync::Arc::new(std::sync::Mutex::new(rule));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, rule) = (target.clone(), std::sync::Arc::clone(&rule));
            tokio::spawn(async move {
                // Who asked may have left.
                let _ = serve(client, &target, move |head| (*rule.lock().unwrap())(head)).await;
            });
        }
    });
    endpoint
}

/// An answer without a body.
pub fn bare(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// An answer with an error code of S3's.
pub fn error(status: &str, code: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn serve(
    client: TcpStream,
    target: &str,
    mut rule: impl FnMut(&str) -> Option<String>,
) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    // Without the empty line at its end.
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body).await?;
    if let Some(answer) = rule(&head) {
        return client.write_all(answer.as_bytes()).await;
    }
    let mut server = TcpStream::connect(target).await?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
    server.write_all(&body).await?;
    tokio::io::copy(&mut server, &mut client).await?;
    client.shutdown().await
}
