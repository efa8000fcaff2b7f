// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Vm} from "../Vm.sol";

/// @notice Rebuilds every balance from Settlement's logs alone, as an outside auditor would.
/// @dev Underflows, and so fails the campaign, where logs say that more left than was there.
abstract contract Auditor {
    mapping(address requester => uint256) public escrow;
    mapping(address coordinator => uint256) public bonds;
    mapping(address operator => uint256) public stakes;
    /// @notice Credit of a payee that was not claimed, and what of it was earned in each epoch.
    mapping(address payee => uint256) public credit;
    mapping(address payee => mapping(uint256 epoch => uint256)) public earned;
    /// @notice Token movement by account: what it paid in and what it was paid.
    mapping(address account => uint256) public paidIn;
    mapping(address account => uint256) public paidOut;
    uint256 public heldByLogs;
    uint256 public burntByLogs;
    uint256 internal epochLength;

    function _readLog(Vm.Log memory log) internal {
        bytes32 kind = log.topics[0];
        if (kind == ISettlement.BatchPosted.selector) return _readBatch(log.data);
        address party = address(uint160(uint256(log.topics[1])));
        if (kind == EventsLib.Deposited.selector) {
            escrow[party] += _payIn(party, abi.decode(log.data, (uint256)));
        } else if (kind == EventsLib.Withdrawn.selector) {
            escrow[party] -= _payOut(log);
        } else if (kind == EventsLib.Bonded.selector) {
            bonds[party] += _payIn(party, abi.decode(log.data, (uint256)));
        } else if (kind == EventsLib.Unbonded.selector) {
            bonds[party] -= _payOut(log);
        } else if (kind == EventsLib.Staked.selector) {
            (, uint256 amount) = abi.decode(log.data, (bytes32, uint256));
            stakes[party] += _payIn(party, amount);
        } else if (kind == EventsLib.Unstaked.selector) {
            stakes[party] -= _payOut(log);
        } else if (kind == EventsLib.Claimed.selector) {
            credit[party] -= _payOut(log);
        } else if (kind == EventsLib.Taken.selector || kind == EventsLib.Given.selector) {
            _readDispute(log, kind == EventsLib.Taken.selector);
        }
    }

    function _readDispute(Vm.Log memory log, bool isTaken) private {
        ISettlement.Pocket pocket = ISettlement.Pocket(uint256(log.topics[1]));
        address account = address(uint160(uint256(log.topics[2])));
        (uint256 amount, uint64 since) = abi.decode(log.data, (uint256, uint64));
        heldByLogs = isTaken ? heldByLogs + amount : heldByLogs - amount;
        if (pocket == ISettlement.Pocket.BURNT) burntByLogs += amount;
        else if (pocket == ISettlement.Pocket.ESCROW) _move(escrow, account, amount, isTaken);
        else if (pocket == ISettlement.Pocket.BOND) _move(bonds, account, amount, isTaken);
        else if (pocket == ISettlement.Pocket.STAKE) _move(stakes, account, amount, isTaken);
        else _earn(account, since, amount, isTaken);
    }

    function _move(
        mapping(address => uint256) storage ledger,
        address account,
        uint256 amount,
        bool isTaken
    ) private {
        ledger[account] = isTaken ? ledger[account] - amount : ledger[account] + amount;
    }

    function _earn(address payee, uint64 since, uint256 amount, bool isTaken) private {
        uint256 epoch = since / epochLength;
        _move(credit, payee, amount, isTaken);
        earned[payee][epoch] =
            isTaken ? earned[payee][epoch] - amount : earned[payee][epoch] + amount;
    }

    function _readBatch(bytes memory data) private {
        (
            uint64 postedAt,,,
            address[] memory requesters,
            address[] memory payees,
            bytes memory lanes
        ) = abi.decode(data, (uint64, bytes32, bytes32, address[], address[], bytes));
        for (uint256 offset = 0; offset < lanes.length; offset += 16) {
            uint256 amount = _number(lanes, offset + 8, 8);
            escrow[requesters[_number(lanes, offset, 2)]] -= amount;
            _earn(payees[_number(lanes, offset + 2, 2)], postedAt, amount, false);
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

    function _payIn(address account, uint256 amount) private returns (uint256) {
        paidIn[account] += amount;
        return amount;
    }

    function _payOut(Vm.Log memory log) private returns (uint256 amount) {
        amount = abi.decode(log.data, (uint256));
        paidOut[address(uint160(uint256(log.topics[2])))] += amount;
    }
}
