// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISeeds} from "../../src/interfaces/ISeeds.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";
import {HistoryContract} from "../mocks/HistoryContract.sol";

contract SeedsTest is Fixture {
    address internal constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    uint256 internal constant COMMIT_BLOCK = 1000;
    uint256 internal constant SEED_BLOCK = COMMIT_BLOCK + SEED_DELAY;
    bytes32 internal constant ROOT = keccak256("receipts");
    bytes internal constant NONCES = "nonces of the requesters";
    bytes32 internal constant MIX = keccak256("randomness of the seed block");

    bytes internal header;

    function setUp() public override {
        super.setUp();
        header = _header(MIX);
        VM.prank(COORDINATOR);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        _mine(SEED_BLOCK + 1, keccak256(header));
    }

    /* COMMIT */

    function test_AnyoneCommitsUnderItsOwnNumbers() external {
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Committed(STRANGER, 0, ROOT, keccak256(""), DATA, uint64(SEED_BLOCK + 1));
        VM.prank(STRANGER);
        assertEq(settlement.commit(ROOT, keccak256(""), DATA), 0, "first of its own");
        VM.prank(COORDINATOR);
        assertEq(settlement.commit(ROOT, keccak256(""), DATA), 1, "second");
        assertEq(settlement.commitCountOf(COORDINATOR), 2, "count");
        ISeeds.Commitment memory made = settlement.commitmentOf(COORDINATOR, 0);
        assertEq(made.root, ROOT, "root");
        assertEq(made.nonceHash, keccak256(NONCES), "nonces");
        assertEq(made.blockNumber, COMMIT_BLOCK, "block");
        assertEq(made.seed, 0, "seed");
    }

    /* FIX SEED */

    function test_AnyoneFixesTheSeedOnce() external {
        bytes32 seed = _expectedSeed(keccak256(NONCES));
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.SeedFixed(COORDINATOR, 0, uint64(SEED_BLOCK), MIX, seed);
        VM.prank(STRANGER);
        assertEq(settlement.fixSeed(COORDINATOR, 0, header, NONCES), seed, "answer");
        assertEq(settlement.commitmentOf(COORDINATOR, 0).seed, seed, "stored");
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.SeedAlreadyFixed.selector, seed));
        settlement.fixSeed(COORDINATOR, 0, header, NONCES);
    }

    function test_RevertWhen_TheSeedBlockIsNotPast() external {
        VM.roll(SEED_BLOCK);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.SeedBlockNotReached.selector, SEED_BLOCK + 1, SEED_BLOCK
            )
        );
        settlement.fixSeed(COORDINATOR, 0, header, NONCES);
    }

    function test_RevertWhen_TheHeaderIsOfAnotherBlock() external {
        bytes memory neighbor = _header(keccak256("a nicer sample"));
        VM.setBlockhash(SEED_BLOCK - 1, keccak256(neighbor));
        _expectWrongHeader(keccak256(header), keccak256(neighbor));
        settlement.fixSeed(COORDINATOR, 0, neighbor, NONCES);
    }

    function test_BlockhashReaches256BlocksAndHistoryTakesOver() external {
        _mine(SEED_BLOCK + 256, keccak256(header));
        settlement.fixSeed(COORDINATOR, 0, header, NONCES);

        VM.prank(COORDINATOR);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        uint256 seedBlock = SEED_BLOCK + 256 + SEED_DELAY;
        VM.roll(seedBlock + 257);
        _expectWrongHeader(0, keccak256(header));
        settlement.fixSeed(COORDINATOR, 1, header, NONCES);
        _etchHistory().set(seedBlock, keccak256(header));
        settlement.fixSeed(COORDINATOR, 1, header, NONCES);
    }

    function test_HistoryReaches8191BlocksAndNoFurther() external {
        _etchHistory().set(SEED_BLOCK, keccak256(header));
        VM.roll(SEED_BLOCK + 8192);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.SeedBlockTooOld.selector, SEED_BLOCK + 8191, SEED_BLOCK + 8192
            )
        );
        settlement.fixSeed(COORDINATOR, 0, header, NONCES);
        VM.roll(SEED_BLOCK + 8191);
        settlement.fixSeed(COORDINATOR, 0, header, NONCES);
    }

    function test_RevertWhen_HistoryKnowsAnotherHash() external {
        _etchHistory().set(SEED_BLOCK, keccak256("other"));
        VM.roll(SEED_BLOCK + 300);
        _expectWrongHeader(keccak256("other"), keccak256(header));
        settlement.fixSeed(COORDINATOR, 0, header, NONCES);
    }

    function test_RevertWhen_NoncesAreNotTheCommittedOnes() external {
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.WrongNonces.selector, keccak256(NONCES), keccak256("chosen later")
            )
        );
        settlement.fixSeed(COORDINATOR, 0, header, "chosen later");
    }

    function test_MissingNoncesAreNoVetoAfterTheTimeout() external {
        uint256 earliest = SEED_BLOCK + NONCE_TIMEOUT + 1;
        _mine(earliest - 1, keccak256(header));
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.NoncesStillAwaited.selector, earliest, earliest - 1)
        );
        settlement.fixSeed(COORDINATOR, 0, header, "");
        _mine(earliest, keccak256(header));
        bytes32 seed = settlement.fixSeed(COORDINATOR, 0, header, "");
        assertEq(seed, _expectedSeed(keccak256("")), "seed of no nonces");
    }

    function test_RevertWhen_WrongNoncesComeAfterTheTimeout() external {
        _mine(SEED_BLOCK + NONCE_TIMEOUT + 1, keccak256(header));
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.WrongNonces.selector, keccak256(NONCES), keccak256("x")
            )
        );
        settlement.fixSeed(COORDINATOR, 0, header, "x");
    }

    function test_CommitterMayPromiseNoNonces() external {
        VM.prank(STRANGER);
        settlement.commit(ROOT, keccak256(""), DATA);
        uint256 seedBlock = SEED_BLOCK + 1 + SEED_DELAY;
        VM.roll(seedBlock + 1);
        VM.setBlockhash(seedBlock, keccak256(header));
        assertTrue(settlement.fixSeed(STRANGER, 0, header, "") != 0, "seed");
    }

    function test_RevertWhen_ThereIsNoCommitment() external {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.UnknownCommitment.selector, COORDINATOR, 1)
        );
        settlement.fixSeed(COORDINATOR, 1, header, NONCES);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.UnknownCommitment.selector, STRANGER, 0));
        settlement.fixSeed(STRANGER, 0, header, NONCES);
    }

    function test_RevertWhen_ABlockHashIsOfNoHeader() external {
        bytes memory junk = "junk";
        VM.setBlockhash(SEED_BLOCK, keccak256(junk));
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadHeader.selector));
        settlement.fixSeed(COORDINATOR, 0, junk, NONCES);
    }

    function test_SeedsDifferByCommitterNumberAndChain() external {
        bytes32 first = settlement.fixSeed(COORDINATOR, 0, header, NONCES);
        VM.roll(COMMIT_BLOCK);
        VM.prank(STRANGER);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        VM.prank(COORDINATOR);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        VM.prank(BOB);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        _mine(SEED_BLOCK + 1, keccak256(header));
        bytes32 second = settlement.fixSeed(COORDINATOR, 1, header, NONCES);
        bytes32 third = settlement.fixSeed(STRANGER, 0, header, NONCES);
        VM.chainId(5);
        bytes32 fourth = settlement.fixSeed(BOB, 0, header, NONCES);
        assertTrue(first != second && first != third && second != third, "committer and number");
        assertTrue(fourth != first && fourth != third, "chain");
    }

    /* INTERNAL */

    function _mine(uint256 number, bytes32 seedBlockHash) internal {
        VM.roll(number);
        VM.setBlockhash(SEED_BLOCK, seedBlockHash);
    }

    function _etchHistory() internal returns (HistoryContract) {
        VM.etch(HISTORY, address(new HistoryContract()).code);
        return HistoryContract(HISTORY);
    }

    function _expectWrongHeader(bytes32 expected, bytes32 actual) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.WrongHeader.selector, expected, actual));
    }

    function _expectedSeed(bytes32 noncesHash) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("gpumarket.seed.v1"),
                block.chainid,
                address(settlement),
                COORDINATOR,
                uint64(0),
                ROOT,
                MIX,
                noncesHash
            )
        );
    }
}
