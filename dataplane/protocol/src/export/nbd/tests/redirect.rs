//! Volumes that another head leads (MA-10, MA-11, MA-22): refusals, and the context that tells of the group.

use super::super::words::{OPTION_REPLY_MAGIC, rep};
use super::super::{Group, Knock, Known, Reason, parse_group};
use super::*;
use crate::wire::Number;

/// `here` is served by this head, `there` by another one; the group of both is 1.7.
struct Pair;

const NUMBER: Number = Number { epoch: 1, counter: 7 };

impl Exports for Pair {
    fn list(&self) -> Vec<ExportInfo> {
        vec![export("here", false)]
    }
    fn lookup(&self, name: &str) -> Option<ExportInfo> {
        (name == "here").then(|| export("here", false))
    }
    fn group(&self, name: &str) -> Option<Group> {
        let places = ["nbd://10.0.0.2:10809/", "nbd+unix:///"].map(|place| format!("{place}{name}"));
        let (partition, leader) = (PartitionId(9), "head-2".to_owned());
        let known = name == "here" || name == "there";
        known.then(|| Group { partition, number: NUMBER, leader, places: places.to_vec() })
    }
}

/// What a client gets for its options, as (option, kind, data).
fn haggle(conn: &mut Connection, bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let pool = Pool::new(PoolConfig { slots: [8, 8, 8], huge: false }).expect("maps");
    let mut commands = Vec::new();
    assert_eq!(conn.input(bytes, &Pair, &pool, &mut commands), bytes.len());
    assert!(commands.is_empty());
    let out: Vec<u8> = conn.pieces().flatten().copied().collect();
    conn.sent(out.len());
    let mut rest = &out[..];
    let mut replies = Vec::new();
    while !rest.is_empty() {
        assert_eq!(u64_at(rest, 0), OPTION_REPLY_MAGIC);
        let len = u32_at(rest, 16) as usize;
        replies.push((u32_at(rest, 8), u32_at(rest, 12), rest[20..20 + len].to_vec()));
        rest = &rest[20 + len..];
    }
    replies
}

fn haggling() -> Connection {
    let mut conn = Connection::new(3);
    let greeting: usize = conn.pieces().map(<[u8]>::len).sum();
    conn.sent(greeting);
    assert!(haggle(&mut conn, &3u32.to_be_bytes()).is_empty());
    conn
}

fn ask(name: &str, query: &str) -> Vec<u8> {
    let data = [&string(name)[..], &1u32.to_be_bytes(), &string(query)].concat();
    option(opt::LIST_META_CONTEXT, &data)
}

fn go(name: &str) -> Vec<u8> {
    option(opt::GO, &go_data(name, &[]))
}

fn known(counter: u64, io: u64) -> String {
    Known { number: Some(Number { epoch: 1, counter }), io }.query()
}

#[test]
fn ma10_a_volume_that_another_head_leads_is_refused_with_words_that_say_where_it_is() {
    let mut conn = haggling();
    let got = haggle(&mut conn, &go("there"));
    let text = "`there` is served by head-2: connect to nbd://10.0.0.2:10809/there (group 1.7)";
    assert_eq!(got, [(opt::GO, rep::ERR_POLICY, text.as_bytes().to_vec())]);
    let knock = Knock { partition: PartitionId(9), informed: false, io: 0 };
    assert_eq!((conn.take_knock(), conn.take_knock()), (Some(knock), None), "it begins MA-14, once");
    assert_eq!(conn.closed(), None, "the client may ask for something else");
    let got = haggle(&mut conn, &option(opt::INFO, &go_data("there", &[])));
    assert_eq!(got[0].1, rep::ERR_POLICY);
    assert_eq!(conn.take_knock(), None, "who only looks does not knock");
    assert_eq!(haggle(&mut conn, &go("nowhere"))[0].1, rep::ERR_UNKNOWN);
    assert_eq!(haggle(&mut conn, &go("here")).last().map(|reply| reply.1), Some(rep::ACK));
    assert_eq!(conn.partition(), Some(PartitionId(7)));
}

#[test]
fn ma11_a_client_that_can_follow_hears_number_and_addresses_in_one_answer() {
    for name in ["there", "here"] {
        let mut conn = haggling();
        let got = haggle(&mut conn, &ask(name, &known(4, 12)));
        let text = format!("\0\0\0\0x-palisade:group/1.7 nbd://10.0.0.2:10809/{name} nbd+unix:///{name}")
            .into_bytes();
        let expect =
            [(opt::LIST_META_CONTEXT, rep::META_CONTEXT, text), (opt::LIST_META_CONTEXT, rep::ACK, vec![])];
        assert_eq!(got, expect);
        let context = std::str::from_utf8(&got[0].2[4..]).expect("a string");
        let places = ["nbd://10.0.0.2:10809/", "nbd+unix:///"].map(|place| format!("{place}{name}"));
        let (number, found) = parse_group(context).expect("a group");
        assert_eq!((number, found), (NUMBER, places.iter().map(String::as_str).collect()));
    }
}

#[test]
fn ma11_who_is_behind_is_sent_on_and_who_knows_the_same_group_knocks() {
    for (counter, knocks) in [(4, None), (7, Some(true))] {
        let mut conn = haggling();
        haggle(&mut conn, &ask("there", &known(counter, 12)));
        assert_eq!(haggle(&mut conn, &go("there"))[0].1, rep::ERR_POLICY);
        let knock = knocks.map(|informed| Knock { partition: PartitionId(9), informed, io: 12 });
        assert_eq!(conn.take_knock(), knock, "group 1.{counter}");
    }
}

#[test]
fn ma22_nobody_is_sent_to_an_older_group_or_attached_under_one() {
    for name in ["there", "here"] {
        let mut conn = haggling();
        haggle(&mut conn, &ask(name, &known(8, 0)));
        let (_, kind, text) = haggle(&mut conn, &go(name)).remove(0);
        let text = String::from_utf8(text).expect("text");
        assert_eq!(kind, rep::ERR_POLICY);
        assert!(text.contains("you know a newer one") && !text.contains("nbd:"), "{text}");
        assert_eq!((conn.partition(), conn.take_knock()), (None, None));
    }
    // What it said of one export counts for that one only.
    let mut conn = haggling();
    haggle(&mut conn, &ask("there", &known(8, 0)));
    assert_eq!(haggle(&mut conn, &go("here")).last().map(|reply| reply.1), Some(rep::ACK));
}

#[test]
fn the_group_is_not_selected_and_not_listed_unasked() {
    let mut conn = haggling();
    haggle(&mut conn, &option(opt::STRUCTURED_REPLY, &[]));
    let set = [&string("here")[..], &1u32.to_be_bytes(), &string("x-palisade:group")].concat();
    assert_eq!(haggle(&mut conn, &option(opt::SET_META_CONTEXT, &set)).len(), 1, "acknowledged, nothing set");
    let all = [&string("here")[..], &0u32.to_be_bytes()].concat();
    let listed = haggle(&mut conn, &option(opt::LIST_META_CONTEXT, &all));
    assert_eq!((listed.len(), &listed[0].2[4..]), (2, &b"base:allocation"[..]));
    let mut elsewhere = all;
    elsewhere[3] = 5;
    elsewhere.splice(4..8, *b"there");
    let listed = haggle(&mut conn, &option(opt::LIST_META_CONTEXT, &elsewhere));
    assert_eq!(listed.len(), 1, "what is led elsewhere has no block status here");
}

#[test]
fn malformed_queries_are_other_peoples_contexts() {
    for query in [
        "x-palisade:groups",
        "x-palisade:group/",
        "x-palisade:group/1",
        "x-palisade:group/1.2",
        "x-palisade:group/1.2/",
        "x-palisade:group/+1.2/3",
        "x-palisade:group/1.2/-3",
        "x-palisade:group/4294967296.1/0",
        "x-palisade:group/1.18446744073709551616/0",
        "x-palisade:group/1.2/3/4",
    ] {
        let got = haggle(&mut haggling(), &ask("there", query));
        assert_eq!(got, [(opt::LIST_META_CONTEXT, rep::ACK, vec![])], "{query}");
    }
    for context in
        ["", "x-palisade:group", "x-palisade:group/", "x-palisade:group/1 nbd://x", "base:allocation"]
    {
        assert_eq!(parse_group(context), None, "{context}");
    }
}

#[test]
fn export_name_of_what_another_head_leads_ends_the_connection_and_knocks() {
    let mut conn = haggling();
    assert!(haggle(&mut conn, &option(opt::EXPORT_NAME, b"there")).is_empty());
    assert_eq!(
        conn.closed(),
        Some(Reason::Violation("NBD_OPT_EXPORT_NAME asks for what another head leads"))
    );
    assert!(conn.take_knock().is_some());
}

#[test]
fn addresses_that_do_not_fit_a_string_are_left_out() {
    let place = format!("nbd+unix:///vol?socket=/{}", "x".repeat(1500));
    let places = vec![place.clone(), "nbd://has a space/vol".to_owned(), place.clone(), place];
    let group = Group { partition: PartitionId(1), number: NUMBER, leader: String::new(), places };
    let context = group.context();
    assert!(context.len() <= super::super::limits::NAME_MAX);
    assert_eq!(parse_group(&context).map(|(_, places)| places.len()), Some(2));
    let name = "é".repeat(2048);
    assert!(group.refusal(&name, Known::default()).len() <= super::super::limits::NAME_MAX);
}
