// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

contract ChallengeLeafTest is Market {
    function setUp() public override {
        super.setUp();
        _postSheet();
    }

    /* ASKING */

    function test_AChallengeHoldsThePriceAndTheBond() external {
        IDisputes.Opening memory opening = _opening(WORK, 1);
        IDisputes.Challenge memory expected = _challenge(WORK, 1);
        (expected.leafHash, expected.price) = (Hashing.hash(opening.leaf), opening.leaf.price);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Challenged(1, coordinator, watcher, expected);
        VM.prank(watcher);
        assertEq(disputes.challengeLeaf(batch, opening), 1, "ids begin at 1");
        assertEq(disputes.challengeOf(1), keccak256(abi.encode(expected)), "only its hash is kept");
        assertEq(_escrow(watcher), FUNDS - CHALLENGE_BOND, "bond");
        assertEq(_credit(provider), _amount(WORK) - opening.leaf.price, "held at once");
        assertEq(settlement.held(), CHALLENGE_BOND + opening.leaf.price, "held");
        assertTrue(_leaf(WORK, 1).isChallenged && _leaf(WORK, 1).open == 1, "noted");
        assertEq(_credit(verifier), _amount(CHECKS), "other lanes are untouched");
        _assertConserved();
    }

    function test_AskingIsPossibleUntilTheLastSecond() external {
        VM.warp(START + OPEN);
        _askLeaf(WORK, 0);
        VM.warp(START + OPEN + 1);
        _refuse(
            watcher,
            abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 1))),
            _error(ErrorsLib.TooLate.selector, START + OPEN, START + OPEN + 1)
        );
    }

    function test_RevertWhen_TheBondIsNotInEscrow() external {
        bytes memory call_ = abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 0)));
        _deposit(helper, CHALLENGE_BOND - 1);
        _refuse(
            helper,
            call_,
            abi.encodeWithSelector(
                ErrorsLib.InsufficientBalance.selector, helper, CHALLENGE_BOND, CHALLENGE_BOND - 1
            )
        );
        _deposit(helper, 1);
        _must(helper, call_);
    }

    function test_RevertWhen_TheLeafIsChallengedAlready() external {
        _askLeaf(WORK, 0);
        bytes memory reason = _error(ErrorsLib.AlreadyDisputed.selector);
        _refuse(helper, abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 0))), reason);
        _refuse(helper, abi.encodeCall(disputes.challengeWithheld, (batch, WORK, 0)), reason);
        _askLeaf(WORK, 1);
    }

    function test_RevertWhen_TheLeafOrItsLaneIsVoid() external {
        Asked memory leaf = _askLeaf(WORK, 0);
        Asked memory lane = _askWithheld(CHECKS, 0);
        VM.warp(START + RESPONSE + 1);
        _timeout(leaf);
        _timeout(lane);
        VM.warp(START + OPEN);
        bytes memory reason = _error(ErrorsLib.AlreadyVoid.selector);
        _refuse(watcher, abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 0))), reason);
        _refuse(
            watcher, abi.encodeCall(disputes.challengeLeaf, (batch, _opening(CHECKS, 1))), reason
        );
    }

    /* ANSWERING */

    function test_AnAnswerByAnyoneEarnsTheBondAndRestoresTheCredit() external {
        Asked memory asked = _askLeaf(WORK, 1);
        bytes memory answer = _answer(asked);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.ChallengeEnded(asked.id, true, helper);
        _must(helper, answer);
        assertEq(_credit(provider), _amount(WORK), "restored");
        assertEq(_credit(helper), CHALLENGE_BOND, "the bond is the responder's");
        assertEq(settlement.payeeOf(helper).available, 0, "and matures as any credit");
        assertEq(_escrow(watcher), FUNDS - CHALLENGE_BOND, "the challenger has lost it");
        assertEq(_bondOf(coordinator), MIN_BOND, "nobody is slashed");
        assertEq(settlement.held(), 0, "held");
        assertTrue(_leaf(WORK, 1).isAnswered && !_leaf(WORK, 1).isChallenged, "right for good");
        assertEq(disputes.challengeOf(asked.id), 0, "closed");
        _assertConserved();
    }

    function test_EachKindOfPaymentCanBeAnswered() external {
        _must(helper, _answer(_askLeaf(WORK, 2)));
        _must(helper, _answer(_askLeaf(CHECKS, 1)));
        _must(helper, _answer(_askLeaf(FEES, 0)));
        assertEq(_credit(verifier), _amount(CHECKS), "check");
        assertEq(_credit(coordinator), FEE, "fee");
    }

    function test_AnsweringIsPossibleUntilTheLastSecond() external {
        Asked memory first = _askLeaf(WORK, 0);
        Asked memory second = _askLeaf(WORK, 1);
        VM.warp(START + RESPONSE);
        _must(helper, _answer(first));
        VM.warp(START + RESPONSE + 1);
        _refuseAnswer(
            second, _error(ErrorsLib.TooLate.selector, START + RESPONSE, START + RESPONSE + 1)
        );
    }

    function test_RevertWhen_WhatWasAnsweredIsAskedAgain() external {
        _must(helper, _answer(_askLeaf(WORK, 0)));
        bytes memory reason = _error(ErrorsLib.AlreadyAnswered.selector);
        _refuse(watcher, abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 0))), reason);
        _refuse(watcher, abi.encodeCall(disputes.challengeWithheld, (batch, WORK, 0)), reason);
    }

    function test_RevertWhen_AnsweredTwice() external {
        Asked memory asked = _askLeaf(WORK, 0);
        bytes memory answer = _answer(asked);
        _must(helper, answer);
        _refuse(helper, answer, _unknown(asked.id, asked.challenge));
        assertEq(_credit(helper), CHALLENGE_BOND, "one bond");
        assertEq(_credit(provider), _amount(WORK), "one credit");
    }

    function test_RevertWhen_AnotherLeafIsShown() external {
        Asked memory asked = _askLeaf(WORK, 0);
        Hashing.Leaf memory other = sheet[WORK][1];
        _refuse(
            helper,
            abi.encodeCall(
                disputes.respond, (asked.id, asked.challenge, other, _evidence(WORK, 1))
            ),
            _wrongHash("leaf", asked.challenge.leafHash, Hashing.hash(other))
        );
    }

    function test_RevertWhen_AFieldOfTheChallengeIsChanged() external {
        Asked memory asked = _askLeaf(WORK, 0);
        bytes memory good = abi.encode(asked.challenge);
        // Twelve words: eight of the place, then leaf, price, challenger and deadline.
        assertEq(good.length, 12 * 32, "all of them");
        for (uint256 word = 0; word < 12; ++word) {
            bytes memory bytes_ = abi.encode(asked.challenge);
            bytes_[word * 32 + 31] ^= 0x01;
            IDisputes.Challenge memory changed = abi.decode(bytes_, (IDisputes.Challenge));
            bytes memory reason = _unknown(asked.id, changed);
            Hashing.Leaf memory leaf = sheet[WORK][0];
            _refuse(
                helper,
                abi.encodeCall(disputes.respond, (asked.id, changed, leaf, _evidence(WORK, 0))),
                reason
            );
            _refuse(helper, abi.encodeCall(disputes.timeout, (asked.id, changed)), reason);
        }
    }

    function test_RevertWhen_ThereIsNoSuchChallenge() external {
        Asked memory asked = _askLeaf(WORK, 0);
        asked.id = 2;
        _refuseAnswer(asked, _unknown(2, asked.challenge));
        asked.id = 0;
        _refuseAnswer(asked, _unknown(0, asked.challenge));
    }

    function test_RevertWhen_TheLeafBecameVoidMeanwhile() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        _proveBadLeaf(WORK, 0);
        _refuseAnswer(asked, _error(ErrorsLib.AlreadyVoid.selector));
    }

    function test_RevertWhen_ALeafChallengeIsAnsweredAsWithheld() external {
        Asked memory asked = _askLeaf(WORK, 0);
        IDisputes.Evidence memory evidence = _evidence(WORK, 0);
        _refuse(
            helper,
            abi.encodeCall(
                disputes.respondWithheld,
                (asked.id, asked.challenge, batch, _opening(WORK, 0), evidence)
            ),
            _wrongHash("leaf", asked.challenge.leafHash, 0)
        );
    }

    /* MATURITY */

    function test_CreditAnsweredInTheNextEpochMaturesWhenItWouldHave() external {
        VM.warp(START + EPOCH - 1);
        _writeSheet();
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        VM.warp(START + EPOCH - 1 + RESPONSE);
        _must(helper, _answer(asked));
        // The first batch, of the same epoch, is there too.
        VM.warp(START + 2 * EPOCH);
        assertEq(settlement.payeeOf(provider).available, 2 * _amount(WORK), "no day later");
    }
}
