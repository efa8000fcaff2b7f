// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title TestToken
/// @notice FOR DEVNETS AND TESTS ONLY: looks like USDC (6 decimals, permit), and anyone can mint.
contract TestToken is ERC20, ERC20Permit {
    constructor() ERC20("gpumarket test USDC", "USDC") ERC20Permit("gpumarket test USDC") {}

    /// @notice Gives `amount` base units to `to`, for nothing.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @inheritdoc ERC20
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
