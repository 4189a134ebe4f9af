//! Payments on Solana: what the official client makes passes, and nothing that differs from it where money is
//! concerned.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::svm::{
    Memo, MemoError, Pubkey, Refusal, Signature, Terms, TokenProgram, Transaction, associated_token_account, check,
    reason, verify_message,
};

/// `vectors/svm/exact.json`, as `record.mjs` beside it writes it.
#[derive(Deserialize)]
struct Vectors {
    associated: Vec<Associated>,
    cases: Vec<Case>,
}

/// An associated token account as Solana's own library derives it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Associated {
    owner: Pubkey,
    mint: Pubkey,
    token_program: Pubkey,
    account: Pubkey,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    kind: Kind,
    terms: RecordedTerms,
    transaction: String,
    official: Official,
    /// What the chain would object to, where the verifier does not without a simulation.
    chain: Option<String>,
}

#[derive(Deserialize, PartialEq, Debug)]
enum Kind {
    /// Made by the official client.
    #[serde(rename = "client")]
    Client,
    /// Made as wallets and other clients may.
    #[serde(rename = "wallet")]
    Wallet,
    /// In order as far as anybody can tell without a node.
    #[serde(rename = "facilitator decides")]
    FacilitatorDecides,
    /// Signed, and not what was asked for; or not signed.
    #[serde(rename = "hostile")]
    Hostile,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordedTerms {
    mint: Pubkey,
    decimals: u8,
    token_program: Pubkey,
    pay_to: Pubkey,
    amount: String,
    fee_payer: Pubkey,
    memo: Option<String>,
}

/// What the official verifier said.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Official {
    valid: bool,
    payer: Option<Pubkey>,
    message_hash: Option<String>,
    reason: Option<String>,
}

impl Case {
    fn terms(&self) -> Terms {
        Terms {
            mint: self.terms.mint,
            decimals: self.terms.decimals,
            token_program: Some(TokenProgram::from_address(&self.terms.token_program).unwrap()),
            pay_to: self.terms.pay_to,
            amount: self.terms.amount.parse().unwrap(),
            fee_payer: self.terms.fee_payer,
            memo: self.terms.memo.as_deref().map(|memo| Memo::new(memo).unwrap()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.transaction).unwrap()
    }
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../vectors/svm/exact.json")).unwrap()
}

fn cases(kinds: &[Kind]) -> Vec<Case> {
    vectors().cases.into_iter().filter(|case| kinds.contains(&case.kind)).collect()
}

fn honest() -> Vec<Case> {
    cases(&[Kind::Client, Kind::Wallet])
}

/// Where the fee payer's signature stands, which is the facilitator's to give: after the number of signatures.
const FEE_PAYER_SIGNATURE: std::ops::Range<usize> = 1..65;

// -------------------------------------------------------------------------------------------------------- recorded

#[test]
fn honest_payments_pass_and_are_known_as_the_official_facilitator_knows_them() {
    let honest = honest();
    assert!(honest.len() >= 30, "{}", honest.len());
    for case in honest {
        assert!(case.official.valid, "{}", case.name);
        let checked =
            check(&case.transaction, &case.terms()).unwrap_or_else(|refusal| panic!("{}: {refusal}", case.name));
        assert_eq!(Some(checked.payer), case.official.payer, "{}", case.name);
        assert_eq!(Some(STANDARD.encode(checked.message_hash.as_bytes())), case.official.message_hash, "{}", case.name);
        assert!(!checked.facilitator_decides, "{}", case.name);

        let any_program = Terms { token_program: None, ..case.terms() };
        assert_eq!(check(&case.transaction, &any_program), Ok(checked), "{}", case.name);
    }
}

#[test]
fn what_only_the_chain_knows_is_left_to_the_facilitator() {
    for case in cases(&[Kind::FacilitatorDecides]) {
        let checked =
            check(&case.transaction, &case.terms()).unwrap_or_else(|refusal| panic!("{}: {refusal}", case.name));
        assert!(checked.facilitator_decides, "{}", case.name);
        assert_eq!(Some(checked.payer), case.official.payer, "{}", case.name);
    }
}

#[test]
fn hostile_payments_are_refused_in_the_official_words() {
    let hostile = cases(&[Kind::Hostile]);
    assert!(hostile.len() >= 65, "{}", hostile.len());
    for case in hostile {
        let said = check(&case.transaction, &case.terms()).expect_err(&case.name).to_string();
        if let Some(reason) = &case.official.reason {
            assert_eq!(&said, reason, "{}", case.name);
            continue;
        }
        assert!(case.official.valid && case.chain.is_some(), "{}", case.name);
        let expected = match case.name.as_str() {
            "the fee payer is the source" | "the fee payer in an assertion" | "the fee payer witnesses a memo" => {
                reason::FEE_PAYER_TOUCHED
            }
            "bytes after the message"
            | "a length in two bytes that fits one"
            | "an account twice"
            | "longer than a packet" => reason::UNDECODABLE,
            "signed for a key of small order" => reason::SIGNATURE,
            _ => reason::SIMULATION_FAILED,
        };
        assert_eq!(said, expected, "{}", case.name);
    }
}

#[test]
fn token_accounts_are_derived_as_by_solanas_library() {
    let vectors = vectors();
    assert_eq!(vectors.associated.len(), 9);
    for Associated { owner, mint, token_program, account } in vectors.associated {
        let program = TokenProgram::from_address(&token_program).unwrap();
        assert_eq!(associated_token_account(&owner, &mint, program), Some(account));
        assert!(owner.is_on_curve() && !account.is_on_curve());
    }
}

// ------------------------------------------------------------------------------------------------------- mutations

#[test]
fn a_payment_meets_no_other_terms() {
    let other = Pubkey::from_bytes([7; 32]);
    for case in honest() {
        let terms = case.terms();
        let other_program = match terms.token_program.unwrap() {
            TokenProgram::Token => TokenProgram::Token2022,
            TokenProgram::Token2022 => TokenProgram::Token,
        };
        let asked = |text: &str| Some(Memo::new(text).unwrap());
        for (others, expected) in [
            (Terms { mint: other, ..terms.clone() }, vec![Refusal::Mint]),
            (Terms { pay_to: other, ..terms.clone() }, vec![Refusal::Recipient]),
            (Terms { amount: terms.amount.wrapping_add(1), ..terms.clone() }, vec![Refusal::Amount]),
            (Terms { amount: terms.amount.wrapping_sub(1), ..terms.clone() }, vec![Refusal::Amount]),
            (Terms { fee_payer: other, ..terms.clone() }, vec![Refusal::FeePayerMismatch]),
            (Terms { decimals: terms.decimals + 1, ..terms.clone() }, vec![Refusal::WouldFail]),
            (Terms { token_program: Some(other_program), ..terms.clone() }, vec![Refusal::WouldFail]),
            (Terms { memo: asked("no such memo"), ..terms.clone() }, vec![Refusal::MemoMismatch, Refusal::MemoCount]),
        ] {
            let refusal = check(&case.transaction, &others).expect_err(&case.name);
            assert!(expected.contains(&refusal), "{}: {refusal:?}", case.name);
        }
    }
}

#[test]
fn no_bit_of_a_payment_can_be_turned() {
    for (number, case) in honest().iter().enumerate() {
        let terms = case.terms();
        let bytes = case.bytes();
        for place in 0..bytes.len() {
            // Every bit of the first, and of each other one bit of each byte: signatures take their time.
            let bits = if number == 0 { 0..8 } else { (place + number) % 8..(place + number) % 8 + 1 };
            for bit in bits {
                let mut turned = bytes.clone();
                turned[place] ^= 1 << bit;
                let result = check(&STANDARD.encode(turned), &terms);
                assert_eq!(result.is_ok(), FEE_PAYER_SIGNATURE.contains(&place), "{}: bit {bit} of {place}", case.name);
            }
        }
    }
}

#[test]
fn nothing_can_be_cut_off_or_added() {
    for case in honest() {
        let terms = case.terms();
        let bytes = case.bytes();
        for length in 0..bytes.len() {
            let cut = STANDARD.encode(&bytes[..length]);
            assert_eq!(check(&cut, &terms), Err(Refusal::Undecodable), "{} to {length}", case.name);
        }
        for more in [&[0][..], &[0xff], &[0; 64]] {
            let longer = STANDARD.encode([&bytes, more].concat());
            assert_eq!(check(&longer, &terms), Err(Refusal::Undecodable), "{}", case.name);
        }
    }
}

#[test]
fn other_texts_of_the_same_payment_are_known_as_the_same() {
    for case in honest() {
        let terms = case.terms();
        let known = check(&case.transaction, &terms).unwrap();
        let unpadded = case.transaction.trim_end_matches('=');
        assert_eq!(STANDARD_NO_PAD.encode(case.bytes()), unpadded);
        assert_eq!(check(unpadded, &terms), Ok(known), "{}", case.name);

        let mut bytes = case.bytes();
        bytes[FEE_PAYER_SIGNATURE].fill(0x5a);
        assert_eq!(check(&STANDARD.encode(bytes), &terms), Ok(known), "{}", case.name);

        let transaction = Transaction::decode(unpadded).unwrap();
        assert_eq!(transaction.encode(), case.transaction, "{}", case.name);
        assert_eq!(transaction.message_hash(), known.message_hash, "{}", case.name);
        for wrong in ["", "=", "*", "_-__", &format!("{unpadded} "), &format!("{unpadded}\n"), &"A".repeat(100_000)] {
            assert_eq!(check(wrong, &terms), Err(Refusal::Undecodable), "{wrong}");
        }
    }
}

#[test]
fn payments_that_the_chain_tells_apart_are_told_apart() {
    let mut hashes: Vec<_> =
        honest().iter().map(|case| check(&case.transaction, &case.terms()).unwrap().message_hash).collect();
    let number = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    // One of them is another by nothing but the fee payer's signature. And v1's client makes the very transaction that
    // v2's makes, where the memo is the seller's and the blockhash has not changed: the chain would take it once.
    assert_eq!(hashes.len(), number - 2);
}

// ------------------------------------------------------------------------------------------------- beyond payments

#[test]
fn memos_that_no_payment_could_meet_are_refused() {
    assert_eq!(Memo::new("order 7").as_ref().map(Memo::as_str), Ok("order 7"));
    assert!(Memo::new(&"m".repeat(256)).is_ok());
    assert_eq!(Memo::new(""), Err(MemoError::Empty));
    assert_eq!(Memo::new(&"m".repeat(257)), Err(MemoError::TooLong));
    assert_eq!(Memo::new("\u{feff}order 7"), Err(MemoError::ByteOrderMark));
}

#[test]
fn only_refusals_of_the_layout_leave_room_for_smart_wallets() {
    for reason in [Refusal::InstructionCount, Refusal::NoTransfer, Refusal::UnknownSixth] {
        assert!(reason.may_be_smart_wallet());
    }
    for reason in [Refusal::Signature, Refusal::Amount, Refusal::FeePayerMismatch, Refusal::UnknownSeventh] {
        assert!(!reason.may_be_smart_wallet());
    }
}

#[test]
fn messages_are_checked_by_the_published_figures() {
    // RFC 8032, section 7.1.
    for (key, message, signature) in [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let bytes = |text| hex::decode(text).unwrap();
        let key = Pubkey::from_bytes(bytes(key).try_into().unwrap());
        let signature = Signature::from_bytes(bytes(signature).try_into().unwrap());
        assert!(verify_message(&key, &bytes(message), &signature));
        assert!(!verify_message(&key, b"another message", &signature));
        assert!(!verify_message(&Pubkey::from_bytes([7; 32]), &bytes(message), &signature));
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }
    // Anybody's signature, by a key of small order.
    let forged = Signature::from_bytes(std::array::from_fn(|place| u8::from(place == 0)));
    assert!((0..64).all(|message: u8| !verify_message(&Pubkey::from_bytes([0; 32]), &[message], &forged)));
}

// ------------------------------------------------------------------------------------------------------ properties

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn many(number: u32) -> ProptestConfig {
        ProptestConfig { cases: number, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(many(2_000))]

        #[test]
        fn bytes_are_no_payment(bytes in vec(any::<u8>(), 0..1400)) {
            let terms = vectors().cases[0].terms();
            prop_assert!(check(&STANDARD.encode(&bytes), &terms).is_err());
            prop_assert!(check(&String::from_utf8_lossy(&bytes), &terms).is_err());
        }

        /// Small bytes make plausible lengths, so that reading gets further.
        #[test]
        fn small_bytes_are_no_payment(bytes in vec(0_u8..6, 0..1232)) {
            let _ = Transaction::decode(&STANDARD.encode(&bytes)).map(|transaction| transaction.encode());
            let terms = Terms { fee_payer: Pubkey::from_bytes([0; 32]), ..vectors().cases[0].terms() };
            prop_assert!(check(&STANDARD.encode(&bytes), &terms).is_err());
        }

        /// Whatever is done to a recorded transaction beyond the fee payer's signature, the payer did not sign it.
        #[test]
        fn payments_cannot_be_edited(
            which in any::<Index>(),
            place in any::<Index>(),
            removed in 0_usize..40,
            inserted in vec(any::<u8>(), 0..40),
        ) {
            let honest = cases(&[Kind::Client]);
            let case = which.get(&honest);
            let bytes = case.bytes();
            let mut edited = bytes.clone();
            let start = place.index(bytes.len());
            edited.splice(start..(start + removed).min(bytes.len()), inserted);
            let is_same = |bytes: &[u8]| (bytes[0], bytes[FEE_PAYER_SIGNATURE.end..].to_vec());
            prop_assume!(edited.len() < FEE_PAYER_SIGNATURE.end || is_same(&edited) != is_same(&bytes));
            prop_assert!(check(&STANDARD.encode(edited), &case.terms()).is_err());
        }

        #[test]
        fn accounts_are_what_their_text_says(bytes in any::<[u8; 32]>(), text in "[ -~]{0,60}") {
            let account = Pubkey::from_bytes(bytes);
            prop_assert_eq!(account.to_string().parse(), Ok(account));
            prop_assert_eq!(serde_json::to_value(account).unwrap(), serde_json::json!(account.to_string()));
            if let Ok(account) = text.parse::<Pubkey>() {
                prop_assert_eq!(account.to_string(), text);
            }
        }
    }
}
