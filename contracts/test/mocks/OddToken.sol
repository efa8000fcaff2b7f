// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A token with every bad habit, each switched on by a test.
contract OddToken is ERC20 {
    uint8 private immutable _decimals;

    /// @notice Base units taken from each transfer.
    uint256 public fee;
    /// @notice Transfers do nothing and return false.
    bool public returnsFalse;
    /// @notice Nobody may send to this address.
    address public blocked;
    /// @notice Called on each transfer, as ERC-777 hooks are, with `hookData`.
    address public hook;
    bytes public hookData;
    /// @notice What the last hook call came to.
    bool public hookOk;
    bytes public hookAnswer;

    error Blocked(address to);

    constructor(uint8 decimals_) ERC20("odd", "ODD") {
        _decimals = decimals_;
    }

    function decimals() public view override returns (uint8) {
        return _decimals;
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @notice Sets a balance, as rebasing tokens do to all of them at once.
    function rebase(address account, uint256 balance) external {
        uint256 present = balanceOf(account);
        if (balance > present) _mint(account, balance - present);
        else _burn(account, present - balance);
    }

    function setFee(uint256 amount) external {
        fee = amount;
    }

    function setReturnsFalse(bool yes) external {
        returnsFalse = yes;
    }

    function setBlocked(address account) external {
        blocked = account;
    }

    function setHook(address target, bytes calldata data) external {
        (hook, hookData) = (target, data);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        if (returnsFalse) return false;
        return super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        if (returnsFalse) return false;
        return super.transferFrom(from, to, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (to == blocked && to != address(0)) revert Blocked(to);
        super._update(from, to, amount);
        if (fee != 0 && from != address(0) && to != address(0)) super._update(to, address(0), fee);
        if (hook != address(0)) (hookOk, hookAnswer) = hook.call(hookData);
    }
}

/// @notice As old tokens are: transfers return nothing at all.
contract SilentToken {
    mapping(address account => uint256) public balanceOf;

    function decimals() external pure returns (uint8) {
        return 6;
    }

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}
