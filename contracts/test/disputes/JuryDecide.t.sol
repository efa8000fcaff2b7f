// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IJury} from "../../src/interfaces/IJury.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice How many of whom decide, and what does not count as a vote.
contract JuryDecideTest is Court {
    function test_QuorumOfEachLevel() external {
        uint256 id = _accuse(0);
        uint8[3] memory quorums = [5, 10, 16];
        for (uint8 level = 0; level < 3; ++level) {
            address[] memory jurors = _seat(id);
            _refuseVotes(id, jurors, quorums[level] - 1, quorums[level]);
            if (level < 2) {
                VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
                jury.escalate(id);
                continue;
            }
            jury.decide(id, jurors, _votes(id, jurors, quorums[level], MISMATCH));
            assertEq(jury.caseOf(id).verdict, MISMATCH, "decided");
        }
    }

    /// @dev Of a registry of 1 to 6: all, two thirds, more than half.
    function test_QuorumOfASmallRegistry() external {
        uint8[3][7] memory quorums =
            [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 2, 2], [4, 3, 3], [5, 4, 3], [5, 4, 4]];
        for (uint256 count = 1; count < 7; ++count) {
            _begin(count);
            for (uint8 level = 0; level < 3; ++level) {
                uint256 id = _accuse(level);
                for (uint8 i = 0; i < level; ++i) {
                    _letLapse(id);
                    jury.escalate(id);
                }
                address[] memory jurors = _seat(id);
                uint256 quorum = quorums[count][level];
                _refuseVotes(id, jurors, quorum - 1, quorum);
                jury.decide(id, jurors, _votes(id, jurors, quorum, MATCH));
                VM.warp(START + EPOCH);
            }
        }
    }

    function test_AnEmptyJuryDecidesNothing() external {
        _begin(0);
        uint256 id = _accuse(0);
        for (uint8 level = 0; level < 3; ++level) {
            address[] memory jurors = _seat(id);
            _refuseVotes(id, jurors, 0, 0);
            VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
            if (level < 2) jury.escalate(id);
        }
        jury.close(id, _noVoters());
        assertEq(_escrow(accuser), FUNDS, "all goes back");
    }

    function test_MoreVotesThanAQuorumAreWelcome() external {
        uint256 id = _accuse(0);
        _letLapse(id);
        jury.escalate(id);
        address[] memory jurors = _seat(id);
        jury.decide(id, jurors, _votes(id, jurors, 15, MATCH));
        _close(id, jurors);
        assertEq(_credit(jurors[14]), JURY_BOND / 2 / 15, "all of them are paid");
    }

    function test_SeatsNeedNotBeTheFirst() external {
        uint256 id = _accuse(0);
        _letLapse(id);
        jury.escalate(id);
        address[] memory jurors = _seat(id);
        IJury.Vote[] memory votes = new IJury.Vote[](10);
        address[] memory voters = new address[](10);
        for (uint8 i = 0; i < 10; ++i) {
            votes[i] = _vote(id, jurors[i + 5], i + 5, MATCH);
            voters[i] = jurors[i + 5];
        }
        VM.expectEmit(true, true, true, true, address(jury));
        emit EventsLib.Decided(id, 1, MATCH, voters, uint64(VM.getBlockTimestamp()) + RESPONSE);
        jury.decide(id, jurors, votes);
    }

    function test_RevertWhen_AJurorVotesTwice() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        votes[1] = _vote(id, jurors[0], 0, MATCH);
        _refuseBallot(id, jurors, votes, _badIndex(1, 0));
    }

    function test_RevertWhen_SeatsAreOutOfOrder() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        (votes[2], votes[3]) = (votes[3], votes[2]);
        _refuseBallot(id, jurors, votes, _badIndex(4, 2));
    }

    function test_RevertWhen_ThereIsNoSuchSeat() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        votes[4].seat = 5;
        _refuseBallot(id, jurors, votes, _badIndex(4, 5));
    }

    function test_RevertWhen_SomebodyElseSigned() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        votes[3] = _vote(id, accuser, 3, MATCH);
        _refuseBallot(
            id,
            jurors,
            votes,
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, jurors[3], accuser)
        );
        votes[3] = _vote(id, jurors[2], 3, MATCH);
        _refuseBallot(
            id,
            jurors,
            votes,
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, jurors[3], jurors[2])
        );
    }

    function test_RevertWhen_ASignatureIsMalformed() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        votes[0].signature = bytes.concat(votes[0].signature, hex"00");
        _refuseBallot(
            id,
            jurors,
            votes,
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, jurors[0], address(0))
        );
    }

    function test_RevertWhen_VerdictsDiffer() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        votes[4] = _vote(id, jurors[4], 4, MISMATCH);
        _refuseBallot(
            id,
            jurors,
            votes,
            abi.encodeWithSelector(ErrorsLib.WrongVerdict.selector, MATCH, MISMATCH)
        );
    }

    function test_RevertWhen_TheVerdictIsNone() external {
        uint256 id = _accuse(0);
        address[] memory jurors = _seat(id);
        uint8[3] memory verdicts = [0, INCONCLUSIVE, 4];
        for (uint256 i = 0; i < 3; ++i) {
            _refuseBallot(
                id,
                jurors,
                _votes(id, jurors, 5, verdicts[i]),
                abi.encodeWithSelector(ErrorsLib.WrongVerdict.selector, MATCH, verdicts[i])
            );
        }
    }

    function test_RevertWhen_AVoteIsAboutAnotherReceipt() external {
        uint256 other = _accuse(1);
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        votes[2] = _vote(other, jurors[2], 2, MATCH);
        _refuseBallot(
            id,
            jurors,
            votes,
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("attestation.receiptHash"),
                Hashing.hash(receipts[0]),
                Hashing.hash(receipts[1])
            )
        );
    }

    function test_RevertWhen_TheJuryIsAltered() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        bytes32 seated = keccak256(abi.encode(jurors));
        address[] memory shorter = _first(jurors, 4);
        _refuseBallot(id, shorter, votes, _wrongJury(seated, shorter));
        (jurors[0], jurors[1]) = (jurors[1], jurors[0]);
        _refuseBallot(id, jurors, votes, _wrongJury(seated, jurors));
    }

    function test_DecidingEndsWithItsLastSecond() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        uint256 deadline = jury.caseOf(id).deadline;
        assertEq(deadline, VM.getBlockTimestamp() + RESPONSE, "deadline");
        VM.warp(deadline + 1);
        _refuseBallot(
            id,
            jurors,
            votes,
            abi.encodeWithSelector(ErrorsLib.TooLate.selector, deadline, deadline + 1)
        );
        VM.warp(deadline);
        jury.decide(id, jurors, votes);
    }

    function test_VotesOfOneJuryDoNotCountInTheNext() external {
        _deposit(provider, 2 * JURY_BOND);
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        jury.decide(id, jurors, votes);
        VM.prank(provider);
        jury.appeal(id);
        address[] memory next = _seat(id);
        _refuseBallot(id, jurors, votes, _wrongJury(keccak256(abi.encode(next)), jurors));
        _refuseBallot(
            id,
            next,
            votes,
            abi.encodeWithSelector(ErrorsLib.NoQuorum.selector, uint256(10), uint256(5))
        );
    }

    function test_VotesOfAnotherChainDoNotCount() external {
        (uint256 id, address[] memory jurors, IJury.Vote[] memory votes) = _five();
        VM.chainId(5);
        VM.prank(STRANGER);
        (bool ok,) = address(jury).call(abi.encodeCall(jury.decide, (id, jurors, votes)));
        assertTrue(!ok, "replayed");
        VM.chainId(31337);
        jury.decide(id, jurors, votes);
    }

    /* INTERNAL */

    function _five()
        internal
        returns (uint256 id, address[] memory jurors, IJury.Vote[] memory votes)
    {
        id = _accuse(0);
        jurors = _seat(id);
        votes = _votes(id, jurors, 5, MATCH);
    }

    function _refuseVotes(uint256 id, address[] memory jurors, uint256 count, uint256 quorum)
        internal
    {
        _refuseBallot(
            id,
            jurors,
            _votes(id, jurors, count, MATCH),
            abi.encodeWithSelector(ErrorsLib.NoQuorum.selector, quorum, count)
        );
    }

    function _refuseBallot(
        uint256 id,
        address[] memory jurors,
        IJury.Vote[] memory votes,
        bytes memory expected
    ) internal {
        _refuse(abi.encodeCall(jury.decide, (id, jurors, votes)), expected);
    }

    function _badIndex(uint256 bound, uint256 actual) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ErrorsLib.BadIndex.selector, bound, actual);
    }

    function _wrongJury(bytes32 seated, address[] memory jurors)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodeWithSelector(
            ErrorsLib.WrongHash.selector, bytes32("jury"), seated, keccak256(abi.encode(jurors))
        );
    }
}
