// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISeeds} from "../src/interfaces/ISeeds.sol";
import {Fixture} from "./Fixture.sol";
import {VM} from "./Vm.sol";

/// @notice Gas of whole transactions, recorded in snapshots/.
/// @dev Isolated: each call is a transaction of its own, with the 21,000, the calldata and cold
/// slots. tests/integration/test_artifacts.py compares the batches with receipts of a real node.
/// forge-config: default.isolate = true
/// forge-config: long.isolate = true
contract GasTest is Fixture {
    string internal constant GROUP = "Transactions";

    function test_BatchOfOneJob() external {
        (address[] memory requesters, address[] memory payees) = _parties(1, 1);
        bytes memory lanes = _lanes(1, 1, 1);
        _post("postBatch 1 job, first credit of the payee", requesters, payees, lanes);
        VM.warp(START + EPOCH);
        uint256 gas = _post("postBatch 1 job", requesters, payees, lanes);
        assertTrue(gas <= 75_000, "one job costs at most 75,000");
    }

    function test_BatchOfThousandJobs() external {
        (address[] memory requesters, address[] memory payees) = _parties(5, 20);
        bytes memory lanes = _lanes(5, 20, 10);
        _post("postBatch 1000 jobs 5x20, first credits", requesters, payees, lanes);
        VM.warp(START + EPOCH);
        uint256 gas = _post("postBatch 1000 jobs 5x20", requesters, payees, lanes);
        assertTrue(gas <= 420_000, "1000 jobs cost at most 420 each");
    }

    function test_BatchOfMostLanes() external {
        (address[] memory requesters, address[] memory payees) = _parties(16, 16);
        _post("postBatch 256 lanes 16x16", requesters, payees, _lanes(16, 16, 10));
    }

    function test_CommitAndFixSeed() external {
        bytes memory call_ = abi.encodeCall(
            settlement.commit, (keccak256("root"), keccak256("nonces"), keccak256("data"))
        );
        _run("commit, first of the committer", COORDINATOR, call_);
        _run("commit", COORDINATOR, call_);
        bytes memory header = _header(keccak256("randomness"));
        uint256 seedBlock = 1000 + SEED_DELAY;
        VM.roll(seedBlock + 1);
        VM.setBlockhash(seedBlock, keccak256(header));
        ISeeds.Commitment memory commitment =
            ISeeds.Commitment(keccak256("root"), keccak256("nonces"), keccak256("data"), 1000);
        call_ = abi.encodeCall(
            settlement.fixSeed, (COORDINATOR, 1, commitment, header, bytes("nonces"))
        );
        _run("fixSeed", STRANGER, call_);
    }

    function test_MoneyInAndOut() external {
        _fund(ALICE, 10e6);
        _run("deposit, first", ALICE, abi.encodeCall(settlement.deposit, (5e6)));
        _run("deposit", ALICE, abi.encodeCall(settlement.deposit, (4e6)));
        _run("requestWithdraw", ALICE, abi.encodeCall(settlement.requestWithdraw, (1e6)));
        VM.warp(START + EXIT_DELAY);
        _run("withdraw", ALICE, abi.encodeCall(settlement.withdraw, (ALICE)));
        _bond(COORDINATOR, MIN_BOND);
        _pay(PROVIDER, 1e6);
        VM.warp(START + EXIT_DELAY + 2 * EPOCH);
        token.mint(PROVIDER, 1);
        _run("claim", STRANGER, abi.encodeCall(settlement.claim, (PROVIDER)));
    }

    /* INTERNAL */

    function _post(
        string memory name,
        address[] memory requesters,
        address[] memory payees,
        bytes memory lanes
    ) internal returns (uint256) {
        bytes memory data = abi.encodeCall(
            settlement.postBatch, (NEVER, DATA, ROOT, requesters, payees, lanes)
        );
        return _run(name, COORDINATOR, data);
    }

    /// @dev Calls from `sender`, checks success, and records the gas of the transaction.
    function _run(string memory name, address sender, bytes memory data)
        internal
        returns (uint256)
    {
        VM.prank(sender);
        (bool ok,) = address(settlement).call(data);
        assertTrue(ok, name);
        return VM.snapshotGasLastCall(GROUP, name);
    }

    /// @dev `count` funded requesters and payees; COORDINATOR bonded.
    function _parties(uint160 requesterCount, uint160 payeeCount)
        internal
        returns (address[] memory requesters, address[] memory payees)
    {
        _bond(COORDINATOR, MIN_BOND);
        requesters = new address[](requesterCount);
        payees = new address[](payeeCount);
        // Addresses full of non-zero bytes, as real ones are.
        for (uint160 i = 0; i < requesterCount; ++i) {
            requesters[i] = address(uint160(uint256(keccak256(abi.encode("requester", i)))));
            _deposit(requesters[i], 1e12);
        }
        for (uint160 i = 0; i < payeeCount; ++i) {
            payees[i] = address(uint160(uint256(keccak256(abi.encode("payee", i)))));
        }
    }

    /// @dev A lane for every pair, each with `jobs` leaves.
    function _lanes(uint16 requesters, uint16 payees, uint32 jobs)
        internal
        pure
        returns (bytes memory lanes)
    {
        for (uint16 i = 0; i < requesters; ++i) {
            for (uint16 j = 0; j < payees; ++j) {
                uint64 amount = 1_234_567;
                lanes = bytes.concat(lanes, abi.encodePacked(i, j, jobs, amount));
            }
        }
    }
}
