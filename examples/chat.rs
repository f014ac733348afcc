//! A chat: rooms of WebSockets that span all workers, and who is asked where.
//!
//! `websocat ws://localhost:8080/room/lobby/ann` speaks and listens as ann, whichever worker has her;
//! `curl localhost:8080/seen/ann` asks the worker that has her what she said last.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, State, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use forebay::{App, CallError, Heard, Hub, HubError, Question, Topic};
use serde::{Deserialize, Serialize};

/// What is said in a room.
struct Room;

#[derive(Serialize, Deserialize)]
struct Line {
    by: String,
    text: String,
}

impl Topic for Room {
    const NAME: &'static str = "room";
    type Message = Line;
}

/// Asked of whichever worker has this person: what she said last.
struct Seen;

impl Question for Seen {
    const NAME: &'static str = "seen";
    type Ask = ();
    type Reply = String;
}

fn main() -> ExitCode {
    App::new("chat")
        .hub()
        .http(async |worker| {
            let router = Router::new().route("/room/{room}/{person}", get(enter)).route("/seen/{person}", get(seen));
            Ok(router.with_state(worker.hub()?))
        })
        .main()
}

async fn enter(State(hub): State<Hub>, Path(place): Path<(String, String)>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |socket| {
        if let Err(error) = talk(&hub, &place.0, &place.1, socket).await {
            log::warn!("{} has left {}: {error}", place.1, place.0);
        }
    })
}

/// Lasts as long as the person is there. A worker that drains sends Close by itself.
async fn talk(hub: &Hub, room: &str, person: &str, mut socket: WebSocket) -> Result<(), CallError<HubError>> {
    let last = Arc::new(Mutex::new(String::new()));
    let said = last.clone();
    let mut held = hub.answer::<Seen, _>(person, async move |()| lock(&said).clone()).await?;
    let mut lines = hub.subscribe::<Room>(room).await?;
    let mut note = format!("you are in {room}");
    while socket.send(Message::Text(note.into())).await.is_ok() {
        note = loop {
            tokio::select! {
                heard = lines.next() => break match heard {
                    Heard::Message(Line { by, text }) => format!("{by}: {text}"),
                    Heard::Missed(Some(count)) => format!("{count} lines are missing here"),
                    Heard::Missed(None) => "lines may be missing here".to_owned(),
                },
                message = socket.recv() => match message {
                    Some(Ok(Message::Text(text))) => {
                        text.as_str().clone_into(&mut lock(&last));
                        let line = Line { by: person.to_owned(), text: text.as_str().to_owned() };
                        if let Err(error) = hub.publish::<Room>(room, &line).await {
                            break format!("this was perhaps not said: {error}");
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Ok(()),
                },
                // The same person has come in elsewhere.
                () = held.replaced() => return Ok(()),
            }
        };
    }
    Ok(())
}

async fn seen(State(hub): State<Hub>, Path(person): Path<String>) -> (StatusCode, String) {
    match hub.request::<Seen>(&person, &()).await {
        Ok(text) => (StatusCode::OK, format!("{text}\n")),
        Err(CallError::Failed(HubError::NobodyThere)) => (StatusCode::NOT_FOUND, format!("{person} is not here\n")),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

fn lock(last: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}
