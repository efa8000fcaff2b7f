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
        assertEq(
            settlement.commitmentOf(COORDINATOR, 0), _hash(COMMIT_BLOCK, 0), "one word, no seed yet"
        );
        assertEq(settlement.commitmentOf(COORDINATOR, 2), 0, "none");
    }

    /* FIX SEED */

    function test_AnyoneFixesTheSeedOnce() external {
        bytes32 seed = _expectedSeed(keccak256(NONCES));
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.SeedFixed(COORDINATOR, 0, uint64(SEED_BLOCK), MIX, seed);
        VM.prank(STRANGER);
        assertEq(_fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES), seed, "answer");
        assertEq(settlement.commitmentOf(COORDINATOR, 0), _hash(COMMIT_BLOCK, seed), "stored");
        _expectUnknown(COORDINATOR, 0);
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES);
    }

    function test_RevertWhen_TheSeedBlockIsNotPast() external {
        VM.roll(SEED_BLOCK);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.SeedBlockNotReached.selector, SEED_BLOCK + 1, SEED_BLOCK
            )
        );
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES);
    }

    function test_RevertWhen_TheHeaderIsOfAnotherBlock() external {
        bytes memory neighbor = _header(keccak256("a nicer sample"));
        VM.setBlockhash(SEED_BLOCK - 1, keccak256(neighbor));
        _expectWrongHeader(keccak256(header), keccak256(neighbor));
        _fix(COORDINATOR, 0, COMMIT_BLOCK, neighbor, NONCES);
    }

    function test_BlockhashReaches256BlocksAndHistoryTakesOver() external {
        _mine(SEED_BLOCK + 256, keccak256(header));
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES);

        VM.prank(COORDINATOR);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        uint256 seedBlock = SEED_BLOCK + 256 + SEED_DELAY;
        VM.roll(seedBlock + 257);
        _expectWrongHeader(0, keccak256(header));
        _fix(COORDINATOR, 1, SEED_BLOCK + 256, header, NONCES);
        _etchHistory().set(seedBlock, keccak256(header));
        _fix(COORDINATOR, 1, SEED_BLOCK + 256, header, NONCES);
    }

    function test_HistoryReaches8191BlocksAndNoFurther() external {
        _etchHistory().set(SEED_BLOCK, keccak256(header));
        VM.roll(SEED_BLOCK + 8192);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.SeedBlockTooOld.selector, SEED_BLOCK + 8191, SEED_BLOCK + 8192
            )
        );
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES);
        VM.roll(SEED_BLOCK + 8191);
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES);
    }

    function test_RevertWhen_HistoryKnowsAnotherHash() external {
        _etchHistory().set(SEED_BLOCK, keccak256("other"));
        VM.roll(SEED_BLOCK + 300);
        _expectWrongHeader(keccak256("other"), keccak256(header));
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES);
    }

    function test_RevertWhen_NoncesAreNotTheCommittedOnes() external {
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.WrongNonces.selector, keccak256(NONCES), keccak256("chosen later")
            )
        );
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, "chosen later");
    }

    function test_MissingNoncesAreNoVetoAfterTheTimeout() external {
        uint256 earliest = SEED_BLOCK + NONCE_TIMEOUT + 1;
        _mine(earliest - 1, keccak256(header));
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.NoncesStillAwaited.selector, earliest, earliest - 1)
        );
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, "");
        _mine(earliest, keccak256(header));
        bytes32 seed = _fix(COORDINATOR, 0, COMMIT_BLOCK, header, "");
        assertEq(seed, _expectedSeed(keccak256("")), "seed of no nonces");
    }

    function test_RevertWhen_WrongNoncesComeAfterTheTimeout() external {
        _mine(SEED_BLOCK + NONCE_TIMEOUT + 1, keccak256(header));
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.WrongNonces.selector, keccak256(NONCES), keccak256("x")
            )
        );
        _fix(COORDINATOR, 0, COMMIT_BLOCK, header, "x");
    }

    function test_CommitterMayPromiseNoNonces() external {
        VM.prank(STRANGER);
        settlement.commit(ROOT, keccak256(""), DATA);
        uint256 seedBlock = SEED_BLOCK + 1 + SEED_DELAY;
        VM.roll(seedBlock + 1);
        VM.setBlockhash(seedBlock, keccak256(header));
        ISeeds.Commitment memory made = _made(SEED_BLOCK + 1, keccak256(""));
        assertTrue(settlement.fixSeed(STRANGER, 0, made, header, "") != 0, "seed");
    }

    function test_RevertWhen_ThereIsNoCommitment() external {
        _expectUnknown(COORDINATOR, 1);
        _fix(COORDINATOR, 1, COMMIT_BLOCK, header, NONCES);
        _expectUnknown(STRANGER, 0);
        _fix(STRANGER, 0, COMMIT_BLOCK, header, NONCES);
    }

    function test_RevertWhen_ABlockHashIsOfNoHeader() external {
        bytes memory junk = "junk";
        VM.setBlockhash(SEED_BLOCK, keccak256(junk));
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadHeader.selector));
        _fix(COORDINATOR, 0, COMMIT_BLOCK, junk, NONCES);
    }

    function test_SeedsDifferByCommitterNumberAndChain() external {
        bytes32 first = _fix(COORDINATOR, 0, COMMIT_BLOCK, header, NONCES);
        VM.roll(COMMIT_BLOCK);
        VM.prank(STRANGER);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        VM.prank(COORDINATOR);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        VM.prank(BOB);
        settlement.commit(ROOT, keccak256(NONCES), DATA);
        _mine(SEED_BLOCK + 1, keccak256(header));
        bytes32 second = _fix(COORDINATOR, 1, COMMIT_BLOCK, header, NONCES);
        bytes32 third = _fix(STRANGER, 0, COMMIT_BLOCK, header, NONCES);
        VM.chainId(5);
        bytes32 fourth = _fix(BOB, 0, COMMIT_BLOCK, header, NONCES);
        assertTrue(first != second && first != third && second != third, "committer and number");
        assertTrue(fourth != first && fourth != third, "chain");
    }

    function test_RevertWhen_AFieldIsNotAsCommitted() external {
        for (uint256 field = 0; field < 4; ++field) {
            ISeeds.Commitment memory changed = _made(COMMIT_BLOCK, keccak256(NONCES));
            if (field == 0) changed.root = keccak256("a nicer root");
            if (field == 1) changed.nonceHash = keccak256("");
            if (field == 2) changed.dataHash = keccak256("other leaves");
            // An earlier block would let the committer choose among seeds.
            if (field == 3) --changed.blockNumber;
            _expectUnknown(COORDINATOR, 0);
            settlement.fixSeed(COORDINATOR, 0, changed, header, NONCES);
        }
    }

    /* INTERNAL */

    function _made(uint256 blockNumber, bytes32 nonceHash)
        internal
        pure
        returns (ISeeds.Commitment memory)
    {
        return ISeeds.Commitment({
            root: ROOT, nonceHash: nonceHash, dataHash: DATA, blockNumber: uint64(blockNumber)
        });
    }

    function _fix(
        address committer,
        uint64 seq,
        uint256 blockNumber,
        bytes memory headerRLP,
        bytes memory nonces
    ) internal returns (bytes32) {
        ISeeds.Commitment memory commitment = _made(blockNumber, keccak256(NONCES));
        return settlement.fixSeed(committer, seq, commitment, headerRLP, nonces);
    }

    function _hash(uint256 blockNumber, bytes32 seed) internal pure returns (bytes32) {
        return keccak256(abi.encode(ROOT, keccak256(NONCES), DATA, blockNumber, seed));
    }

    function _expectUnknown(address committer, uint64 seq) internal {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.UnknownCommitment.selector, committer, seq)
        );
    }

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
