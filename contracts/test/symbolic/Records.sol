// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Disputes} from "../../src/Disputes.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {VM} from "../Vm.sol";
import {Ledger} from "./Ledger.sol";

/// @notice The account of one lane of two leaves, open to be called in any order.
contract Bench is Disputes {
    uint64 private immutable _AMOUNT;

    constructor(address ledger, uint64 amount) Disputes(ledger) {
        _AMOUNT = amount;
    }

    function split(uint64 taken, address harmed, uint8 jurors) external {
        address[] memory list = new address[](jurors);
        for (uint160 i = 0; i < jurors; ++i) {
            list[i] = address(0x100 + i);
        }
        _splitSlash(address(1), taken, address(2), harmed, list);
    }

    /// @notice Operation 0-2: hold, release, void the leaf; 3-5: the lane.
    function run(uint8 operation, uint32 index, uint64 price) external {
        Place memory place = _at(index);
        if (operation == 0) _holdLeaf(place, price);
        else if (operation == 1) _releaseLeaf(place, price);
        else if (operation == 2) _voidLeaf(place, price, Cause.DOUBLE);
        else if (operation == 3) _holdLane(place);
        else if (operation == 4) _releaseLane(place);
        else _voidLane(place);
    }

    function lane() external view returns (LaneRecord memory) {
        return _lane(_at(0));
    }

    function leaf(uint32 index) external view returns (LeafRecord memory) {
        return _leaf(_at(index));
    }

    function _at(uint32 index) private view returns (Place memory place) {
        (place.coordinator, place.requester, place.payee) = (address(3), address(4), address(5));
        (place.index, place.laneAmount) = (index, _AMOUNT);
    }
}

/// @notice Run by scripts/prove-contracts, for all inputs.
contract RecordsProofs {
    uint256 private constant STEPS = 2;

    /// @notice A slash is shared out whole, and at least half of it is nobody's. Up to a million tokens
    /// of six decimals: division by the jurors is too hard for more.
    function check_SlashIsSharedWhole(uint40 taken, uint40 bond, bool isHarmed, uint8 jurors)
        external
    {
        VM.assume(jurors <= 5);
        Ledger ledger = new Ledger(bond, 1);
        Bench bench = new Bench(address(ledger), 0);
        // Lists of a length that is known, one after the other.
        for (uint8 count = 0; count <= 5; ++count) {
            if (jurors == count) bench.split(taken, isHarmed ? address(6) : address(0), count);
        }
        assert(ledger.total() == taken);
        assert(ledger.given(ISettlement.Pocket.BURNT) * 2 >= taken);
    }

    /// @notice Whatever is held, released and made void of a lane in whatever order: what left the
    /// payee is what came back, what the requester got, and what is held; no more than the lane;
    /// and when nothing is disputed, nothing is held.
    function check_LaneKeepsAccount(
        uint64 amount,
        uint64 first,
        uint64 second,
        uint8[2] calldata operations,
        bool[2] calldata isSecond
    ) external {
        VM.assume(uint256(first) + second == amount);
        Ledger ledger = new Ledger(1, 1);
        Bench bench = new Bench(address(ledger), amount);
        for (uint256 i = 0; i < STEPS; ++i) {
            VM.assume(operations[i] < 6);
            // A dispute of the lane is over when its voiding ends it, as in Challenges.
            if (operations[i] == 5 && bench.lane().open == 0) break;
            (uint32 index, uint64 price) = isSecond[i] ? (uint32(1), second) : (uint32(0), first);
            try bench.run(operations[i], index, price) {}
            catch {
                break;
            }
        }
        _check(ledger, bench, amount);
    }

    function _check(Ledger ledger, Bench bench, uint64 amount) private view {
        uint256 taken = ledger.taken(ISettlement.Pocket.CREDIT);
        uint256 back = ledger.given(ISettlement.Pocket.CREDIT);
        uint256 refunded = ledger.given(ISettlement.Pocket.ESCROW);
        assert(back + refunded <= taken);
        assert(taken - back <= amount);
        assert(bench.lane().aside == taken - back);
        bool isQuiet = bench.lane().open == 0 && bench.leaf(0).open == 0 && bench.leaf(1).open == 0;
        if (isQuiet) assert(taken - back == refunded);
    }
}
