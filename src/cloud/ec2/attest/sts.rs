//! The one question that is put to STS, and what its answer means. Pure.
//!
//! A proof brings five values; all else is composed here ([`crate::model::bootstrap`]): where it goes, what is
//! asked, which headers are signed. So there is no header to smuggle in, no other host to send it to and no
//! other action to call: a signature that was made for any of these does not fit.
//!
//! Sources: AWS, "Create a signed AWS API request", "GetCallerIdentity", "Common errors" of STS, "Instance
//! identity roles": the role's session is `arn:<partition>:sts::<account>:assumed-role/aws:ec2-instance/<id>`;
//! a role that somebody makes can have no colon in its name.

use crate::model::InstanceId;
use crate::model::bootstrap::{BINDING_HEADER, SIGNED_HEADERS, STS_BODY, STS_CONTENT_TYPE, hex};
use crate::ports::{ProofFault, StsAudience, StsProof};
use serde::Deserialize;

/// Keys have 16 to 128 characters (AWS, "Credentials", AccessKeyId).
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 16..=128;
/// AWS states no limit ("we strongly recommend that you make no assumptions"); they have some 1,000.
const LONGEST_TOKEN: usize = 8 << 10;
/// Of what STS says in an error, as much goes into our log.
const LONGEST_CODE: usize = 64;

/// A request that is good for STS alone. No Debug: it holds a session token.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedQuestion {
    pub headers: Vec<(&'static str, String)>,
    pub body: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Caller {
    pub account: String,
    pub arn: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCaller {
    /// With STS's code.
    Refused(String),
    NotNow(String),
}

/// `POST /` to the audience's host.
pub fn question(audience: &StsAudience, proof: &StsProof, binding: &str) -> Result<SignedQuestion, ProofFault> {
    let StsProof { nonce: _, access_key_id, date, session_token, signature } = proof;
    let key_letter = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    if !KEY_LENGTHS.contains(&access_key_id.len()) || !access_key_id.bytes().all(key_letter) {
        return Err(ProofFault::Form("access key id"));
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let day = match (date.get(..8), date.get(8..9), date.get(9..15), date.get(15..)) {
        (Some(day), Some("T"), Some(time), Some("Z")) if digits(day) && digits(time) => day,
        _ => return Err(ProofFault::Form("date")),
    };
    let token_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte);
    if !(1..=LONGEST_TOKEN).contains(&session_token.len()) || !session_token.bytes().all(token_letter) {
        return Err(ProofFault::Form("session token"));
    }
    if signature.len() != 32 {
        return Err(ProofFault::Form("signature"));
    }
    let StsAudience { region, host } = audience;
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={access_key_id}/{day}/{region}/sts/aws4_request, \
         SignedHeaders={SIGNED_HEADERS}, Signature={}",
        hex(signature)
    );
    let headers = vec![
        ("accept", "application/json".to_owned()),
        ("authorization", authorization),
        ("content-type", STS_CONTENT_TYPE.to_owned()),
        ("host", host.clone()),
        ("x-amz-date", date.clone()),
        ("x-amz-security-token", session_token.clone()),
        (BINDING_HEADER, binding.to_owned()),
    ];
    Ok(SignedQuestion { headers, body: STS_BODY })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Good {
    get_caller_identity_response: GoodResponse,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GoodResponse {
    get_caller_identity_result: Caller,
}

pub fn caller(answer: &StsAnswer) -> Result<Caller, NoCaller> {
    let StsAnswer { status, body } = answer;
    if *status == 200 {
        return serde_json::from_slice::<Good>(body)
            .map(|good| good.get_caller_identity_response.get_caller_identity_result)
            .map_err(|_| NoCaller::NotNow("STS's answer is not understood".to_owned()));
    }
    let code = code(body);
    let passing =
        ["Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable", "InternalFailure"];
    let refused = (400..500).contains(status) && *status != 429;
    match code {
        Some(code) if refused && !passing.contains(&code) => Err(NoCaller::Refused(code.to_owned())),
        code => Err(NoCaller::NotNow(format!("STS answers {status} {}", code.unwrap_or("without a code")))),
    }
}

/// `{"Error": {"Code": …}}`, or in XML.
fn code(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let (before, after) = if text.trim_start().starts_with('{') { ("\"Code\"", '"') } else { ("<Code>", '<') };
    let rest = text.split_once(before)?.1.trim_start_matches([':', ' ', '"']);
    let code = rest.split_once(after)?.0;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    ((1..=LONGEST_CODE).contains(&code.len()) && code.bytes().all(letter)).then_some(code)
}

/// That it was this instance's identity role, and in this account.
pub fn must_be(caller: &Caller, instance: &InstanceId, account: Option<&str>) -> Result<(), ProofFault> {
    let other = || ProofFault::OtherIdentity(caller.arn.chars().filter(char::is_ascii_graphic).take(256).collect());
    let parts: Vec<&str> = caller.arn.splitn(6, ':').collect();
    let ["arn", partition, "sts", "", arn_account, resource] = parts[..] else { return Err(other()) };
    let role = resource.strip_prefix("assumed-role/aws:ec2-instance/").ok_or_else(other)?;
    if !partition.starts_with("aws") || arn_account != caller.account || role != instance.as_str() {
        return Err(other());
    }
    match account {
        Some(account) if account != caller.account => {
            Err(ProofFault::OtherAccount(caller.account.chars().filter(char::is_ascii_digit).take(12).collect()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn audience() -> StsAudience {
        StsAudience { region: "us-east-1".to_owned(), host: "sts.us-east-1.amazonaws.com".to_owned() }
    }

    fn proof() -> StsProof {
        StsProof {
            nonce: vec![1],
            access_key_id: "ASIATEST00000001".to_owned(),
            date: "20260101T000000Z".to_owned(),
            session_token: "dG9rZW4=".to_owned(),
            signature: vec![0xab; 32],
        }
    }

    #[test]
    fn the_question_is_the_same_but_for_the_five_values() {
        let question = question(&audience(), &proof(), "b1nd").unwrap();
        let header = |name: &str| question.headers.iter().find(|(n, _)| *n == name).unwrap().1.clone();
        assert_eq!(
            header("authorization"),
            format!(
                "AWS4-HMAC-SHA256 Credential=ASIATEST00000001/20260101/us-east-1/sts/aws4_request, SignedHeaders=\
                 content-type;host;x-amz-date;x-amz-security-token;x-pilotlight-binding, Signature={}",
                "ab".repeat(32)
            )
        );
        assert_eq!(header("host"), "sts.us-east-1.amazonaws.com");
        assert_eq!(header(BINDING_HEADER), "b1nd");
        assert_eq!(question.body, "Action=GetCallerIdentity&Version=2011-06-15");
    }

    #[test]
    fn a_value_that_could_be_more_than_itself_is_refused() {
        let changed = |change: &dyn Fn(&mut StsProof)| {
            let mut proof = proof();
            change(&mut proof);
            question(&audience(), &proof, "b1nd").err()
        };
        for key in ["", "ASIA", "ASIATEST0000000/", "ASIATEST00000001, SignedHeaders=host", "asiatest00000001"] {
            assert_eq!(
                changed(&|p| p.access_key_id = key.to_owned()),
                Some(ProofFault::Form("access key id")),
                "{key}"
            );
        }
        for date in ["", "20260101T000000", "20260101T000000Z\r\nx: y", "2026010éT00000Z", "20260101 000000Z"] {
            assert_eq!(changed(&|p| p.date = date.to_owned()), Some(ProofFault::Form("date")), "{date}");
        }
        for token in ["", "to ken", "token\r\nhost: elsewhere", &"x".repeat(LONGEST_TOKEN + 1)] {
            assert_eq!(changed(&|p| p.session_token = token.to_owned()), Some(ProofFault::Form("session token")));
        }
        assert_eq!(changed(&|p| p.signature = vec![0; 33]), Some(ProofFault::Form("signature")));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_no_header_gets_a_second_line(
            key in ".{0,40}", date in "[0-9TZ\r\n]{0,20}", token in ".{0,60}", signature in any::<Vec<u8>>()
        ) {
            let proof = StsProof { nonce: vec![], access_key_id: key, date, session_token: token, signature };
            if let Ok(question) = question(&audience(), &proof, "b1nd") {
                for (_, value) in question.headers {
                    prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                }
            }
        }

        #[test]
        fn any_answer_is_judged_and_none_that_is_not_a_success_names_a_caller(
            status in 100..600u16, body in prop_oneof![
                any::<Vec<u8>>(), ".{0,80}".prop_map(String::into_bytes),
                "[A-Za-z.]{0,70}".prop_map(|code| format!("<Error><Code>{code}</Code></Error>").into_bytes()),
            ]
        ) {
            let judged = caller(&StsAnswer { status, body });
            prop_assert!(judged.is_err());
            let may_be_refused = (400..500).contains(&status) && status != 429;
            prop_assert!(may_be_refused || matches!(judged, Err(NoCaller::NotNow(_))));
        }
    }

    fn answer(status: u16, body: &str) -> Result<Caller, NoCaller> {
        caller(&StsAnswer { status, body: body.as_bytes().to_vec() })
    }

    #[test]
    fn an_answer_names_the_caller_or_refuses_or_is_none() {
        let good = r#"{"GetCallerIdentityResponse": {"GetCallerIdentityResult": {"Account": "1", "Arn": "a", "UserId": "u"},
            "ResponseMetadata": {"RequestId": "r"}}}"#;
        assert_eq!(answer(200, good), Ok(Caller { account: "1".to_owned(), arn: "a".to_owned() }));
        assert!(matches!(answer(200, "{}"), Err(NoCaller::NotNow(_))));
        let refused = |code: &str| Err(NoCaller::Refused(code.to_owned()));
        let json = r#"{"Error":{"Code":"SignatureDoesNotMatch","Message":"…","Type":"Sender"},"RequestId":"r"}"#;
        assert_eq!(answer(403, json), refused("SignatureDoesNotMatch"));
        assert_eq!(answer(403, "<ErrorResponse><Error><Code>ExpiredToken</Code>"), refused("ExpiredToken"));
        for (status, body) in [(400, "<Code>Throttling</Code>"), (503, json), (429, json), (403, ""), (302, json)] {
            assert!(matches!(answer(status, body), Err(NoCaller::NotNow(_))), "{status} {body}");
        }
    }

    #[test]
    fn only_the_instances_own_identity_role_is_the_instance() {
        let id = InstanceId::new("i-1");
        let is = |arn: &str, account: Option<&str>| {
            must_be(&Caller { account: "123456789012".to_owned(), arn: arn.to_owned() }, &id, account)
        };
        let own = "arn:aws:sts::123456789012:assumed-role/aws:ec2-instance/i-1";
        assert_eq!(is(own, None), Ok(()));
        assert_eq!(is(own, Some("123456789012")), Ok(()));
        assert_eq!(is(&own.replace("aws:sts", "aws-cn:sts"), None), Ok(()));
        assert_eq!(is(own, Some("999999999999")), Err(ProofFault::OtherAccount("123456789012".to_owned())));
        for other in [
            "arn:aws:sts::123456789012:assumed-role/aws:ec2-instance/i-12",
            "arn:aws:sts::123456789012:assumed-role/aws:ec2-instance/i-2",
            "arn:aws:sts::123456789012:assumed-role/aws:ec2-instance/x/i-1",
            "arn:aws:sts::123456789012:assumed-role/a-role/i-1",
            "arn:aws:sts::123456789012:assumed-role/ec2-instance/i-1",
            "arn:aws:sts::999999999999:assumed-role/aws:ec2-instance/i-1",
            "arn:aws:iam::123456789012:user/assumed-role/aws:ec2-instance/i-1",
            "arn:evil:sts::123456789012:assumed-role/aws:ec2-instance/i-1",
            "i-1",
            "",
        ] {
            assert_eq!(is(other, None), Err(ProofFault::OtherIdentity(other.to_owned())));
        }
    }
}
