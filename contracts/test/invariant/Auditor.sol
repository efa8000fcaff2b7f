// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Vm} from "../Vm.sol";

/// @notice Rebuilds every balance from the contract's logs alone, as an outside auditor would.
contract Auditor {
    struct Credit {
        uint256 epoch;
        uint256 amount;
    }

    uint256 private immutable EPOCH;

    mapping(address requester => uint256) public escrow;
    mapping(address coordinator => uint256) public bonds;
    mapping(address operator => uint256) public stakes;
    mapping(address payee => uint256) public claimed;
    /// @notice Token movement by account: what it paid in and what it was paid.
    mapping(address account => uint256) public paidIn;
    mapping(address account => uint256) public paidOut;
    mapping(address payee => Credit[]) private _credits;

    constructor(uint256 epoch) {
        EPOCH = epoch;
    }

    /// @notice Credit of `payee` that was matured or not matured at `timestamp`, claims deducted.
    function creditOf(address payee, uint256 timestamp)
        external
        view
        returns (uint256 matured, uint256 waiting)
    {
        Credit[] storage credits = _credits[payee];
        for (uint256 i = 0; i < credits.length; ++i) {
            if (credits[i].epoch + 2 <= timestamp / EPOCH) matured += credits[i].amount;
            else waiting += credits[i].amount;
        }
        // Underflows, and so fails the campaign, if ever more was claimed than had matured.
        matured -= claimed[payee];
    }

    function read(Vm.Log[] calldata logs, address settlement) external {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == settlement) _read(logs[i]);
        }
    }

    function _read(Vm.Log calldata log) private {
        bytes32 kind = log.topics[0];
        address party = address(uint160(uint256(log.topics[1])));
        if (kind == EventsLib.Deposited.selector) {
            escrow[party] += _payIn(party, log.data);
        } else if (kind == EventsLib.Withdrawn.selector) {
            escrow[party] -= _payOut(party, log.data);
        } else if (kind == EventsLib.Bonded.selector) {
            bonds[party] += _payIn(party, log.data);
        } else if (kind == EventsLib.Unbonded.selector) {
            bonds[party] -= _payOut(party, log.data);
        } else if (kind == EventsLib.Staked.selector) {
            (, uint256 amount) = abi.decode(log.data, (bytes32, uint256));
            stakes[party] += _payIn(party, abi.encode(amount));
        } else if (kind == EventsLib.Unstaked.selector) {
            stakes[party] -= _payOut(address(uint160(uint256(log.topics[2]))), log.data);
        } else if (kind == EventsLib.Claimed.selector) {
            claimed[party] += _payOut(address(uint160(uint256(log.topics[2]))), log.data);
        } else if (kind == EventsLib.BatchPosted.selector) {
            _readBatch(log.data);
        }
    }

    function _readBatch(bytes calldata data) private {
        (
            uint64 postedAt,,
            address[] memory requesters,
            address[] memory payees,
            bytes memory lanes
        ) = abi.decode(data, (uint64, bytes32, address[], address[], bytes));
        for (uint256 offset = 0; offset < lanes.length; offset += 48) {
            uint256 amount = _number(lanes, offset + 8, 8);
            escrow[requesters[_number(lanes, offset, 2)]] -= amount;
            _credits[payees[_number(
                        lanes, offset + 2, 2
                    )]].push(Credit({epoch: postedAt / EPOCH, amount: amount}));
        }
    }

    /// @dev Big-endian number of `size` bytes; byte by byte, unlike the contract does it.
    function _number(bytes memory data, uint256 offset, uint256 size)
        private
        pure
        returns (uint256 value)
    {
        for (uint256 i = 0; i < size; ++i) {
            value = value * 256 + uint8(data[offset + i]);
        }
    }

    function _payIn(address account, bytes memory data) private returns (uint256 amount) {
        amount = abi.decode(data, (uint256));
        paidIn[account] += amount;
    }

    function _payOut(address account, bytes memory data) private returns (uint256 amount) {
        amount = abi.decode(data, (uint256));
        paidOut[account] += amount;
    }
}
