"""What the table of every net of the zoo says.

One line a group: name, channels, producers > consumers | why it is frozen, if it is, with the line
of source that froze it.
"""

from __future__ import annotations

TABLES: dict[str, tuple[str, ...]] = {
    "chain": (
        "0 6: 0 > 3",
        "3 8: 3 > 7",
        "7 5: 7 > 9.fc",
        "9.fc 3: 9.fc > - | network output",
    ),
    "Residual": (
        "stem.0 6: stem.0 two.0 > one.0 short.0 three.0",
        "one.0 5: one.0 > two.0",
        "short.0 7: short.0 four.0 > head.fc",
        "three.0 4: three.0 > four.0",
        "head.fc 3: head.fc > - | network output",
    ),
    "depthwise_separable": (
        "0.0 6: 0.0 2.0 > 4.0",
        "4.0 8: 4.0 > 6.fc",
        "6.fc 3: 6.fc > - | network output",
    ),
    "InvertedResidual": (
        "stem.0 4: stem.0 project.0 > expand.0 head.fc",
        "expand.0 12: expand.0 spread.0 > project.0",
        "head.fc 3: head.fc > - | network output",
    ),
    "Concat": (
        "left.0 4: left.0 > join.0",
        "right 5: right > join.0",
        "join.0 6: join.0 > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "Dense": (
        "stem 4: stem > convs.0 convs.1 head.fc",
        "convs.0 3: convs.0 > convs.1 head.fc",
        "convs.1 3: convs.1 > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "SqueezeExcite": (
        "stem.0 6: stem.0 expand > reduce head.fc",
        "reduce 2: reduce > expand",
        "head.fc 3: head.fc > - | network output",
    ),
    "PreActivation": (
        "stem 6: stem conv2 > conv1 head.fc",
        "conv1 5: conv1 > conv2",
        "head.fc 3: head.fc > - | network output",
    ),
    "ConcatNorm": (
        "left 7: left right depthwise > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "AddInput": (
        "one 6: one > two",
        "three 4: three > head.fc",
        "two 3: two > three"
        " | joined with fixed values by add at `x = x + self.two(torch.relu(self.one(x)))`",
        "head.fc 3: head.fc > - | network output",
    ),
    "ConcatInput": (
        "one 5: one > two",
        "two 4: two > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "CalledTwice": (
        "left 5: left right > shared",
        "shared 6: shared again > again head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "TwoResolutions": (
        "stem.0 5: stem.0 block.2.0 > block.0.0 head.fc",
        "block.0.0 4: block.0.0 > block.2.0",
        "head.fc 3: head.fc > - | network output",
    ),
    "Chunk": (
        "stem.0 8: stem.0 > left head.fc",
        "left 4: left > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "Slices": (
        "stem.0 8: stem.0 > left right",
        "left 4: left right > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "LiteralSplit": (
        "stem.0 8: stem.0 > left right",
        "left 4: left > head.fc",
        "right 4: right > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "Shuffle": (
        "stem.0 8: stem.0 > branch.0 head.fc",
        "branch.0 4: branch.0 > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "StackShuffle": (
        "left.0 4: left.0 > join",
        "right.0 4: right.0 > join",
        "join 5: join > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "PixelShuffle": (
        "stem.0 5: stem.0 > wide",
        "wide 8: wide > last"
        " | channels on several axes reach Conv2d last at "
        "`return self.last(self.shuffle(self.wide(torch.relu(self.stem(x)))))`",
        "last 3: last > - | network output",
    ),
    "FlattenModule": (
        "conv.0 6: conv.0 > hidden",
        "hidden 7: hidden > fc",
        "fc 3: fc > - | network output",
    ),
    "FlattenFunction": (
        "conv.0 6: conv.0 > hidden",
        "hidden 7: hidden > fc",
        "fc 3: fc > - | network output",
    ),
    "FlattenView": (
        "conv.0 6: conv.0 > hidden",
        "hidden 7: hidden > fc",
        "fc 3: fc > - | network output",
    ),
    "FlattenLiteral": (
        "conv.0 6: conv.0 > hidden",
        "hidden 7: hidden > fc",
        "fc 3: fc > - | network output",
    ),
    "FlattenTwo": (
        "left 4: left > fc",
        "right 5: right > fc",
        "fc 3: fc > - | network output",
    ),
    "Squeeze": (
        "conv.0 6: conv.0 > fc",
        "fc 3: fc > - | network output",
    ),
    "SliceBeforeOutput": (
        "one.0 5: one.0 > two",
        "two 3: two > -",
        "two 3: two > - | network output",
    ),
    "MeanOverChannels": (
        "one.0 5: one.0 > two",
        "two 4: two > head.fc"
        " | reached by mean at `return self.head(x * torch.sigmoid(x.mean(dim=1, keepdim=True)))`",
        "head.fc 3: head.fc > - | network output",
    ),
    "SoftmaxOverChannels": (
        "one.0 5: one.0 > two",
        "two 4: two > - | reached by softmax at `x = torch.softmax(x, dim=1)`",
        "head.fc 3: head.fc > - | network output",
    ),
    "SoftmaxOverPositions": (
        "one.0 5: one.0 > two",
        "two 4: two > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "Flipped": (
        "one.0 3: one.0 > two",
        "two 4: two > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "ZeroPadShortcut": (
        "stem.0 4: stem.0 two.0 > two.0 head.fc",
        "two.0 2: two.0 > -"
        " | joined with fixed values by add at "
        "`return self.head(torch.cat([x, zeros], 1) + self.two(x))`",
        "head.fc 3: head.fc > - | network output",
    ),
    "Doubled": (
        "two.0 6: two.0 > head.fc",
        "stem.0 4: stem.0 > two.0"
        " | can't be cut through zeros at `zeros = torch.zeros(x.shape, dtype=x.dtype)`",
        "head.fc 3: head.fc > - | network output",
    ),
    "Coordinates": (
        "stem.0 4: stem.0 > two.0",
        "two.0 6: two.0 > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "instance_norm": (
        "0 6: 0 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "plain_instance_norm": (
        "0 6: 0 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "group_norm": (
        "2 4: 2 > 4.fc",
        "0 6: 0 > - | reached by GroupNorm 1",
        "4.fc 3: 4.fc > - | network output",
    ),
    "prelu": (
        "0 6: 0 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "channel_prelu": (
        "0 6: 0 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "grouped": (
        "0 3: 0 > 1",
        "1 3: 1 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "multiplier": (
        "0 6: 0 1 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "transposed": (
        "2 4: 2 > 4.fc",
        "0 6: 0 > - | reached by ConvTranspose2d 1",
        "4.fc 3: 4.fc > - | network output",
    ),
    "activations": (
        "0 6: 0 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "upsample": (
        "0 6: 0 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "BareScale": (
        "two.0 5: two.0 > head.fc",
        "one.0 6: one.0 > two.0"
        " | joined with fixed values by mul at `x = torch.relu(self.one(x)) * self.each`",
        "head.fc 3: head.fc > - | network output",
    ),
    "subclass": (
        "0 6: 0 > 1",
        "1 6: 1 > 2",
        "2 4: 2 > 4.fc",
        "4.fc 3: 4.fc > - | network output",
    ),
    "own_forward": (
        "2 4: 2 > 4.fc",
        "0 6: 0 > - | reached by conv2d at `return F.conv2d(x, weight, self.bias, padding=1)`",
        "4.fc 3: 4.fc > - | network output",
    ),
    "Tied": (
        "conv.0 6: conv.0 > left | left and right share a parameter",
        "left 7: left > middle | left and right share a parameter",
        "middle 6: middle > right | left and right share a parameter",
        "right 7: right > fc | left and right share a parameter",
        "fc 3: fc > - | network output",
    ),
    "Borrowed": (
        "conv.0 6: conv.0 > encode | encode and encode.weight share a parameter",
        "encode 4: encode > -"
        " | reached by linear at "
        "`x = F.linear(torch.relu(self.encode(x)), self.encode.weight.t())`",
        "fc 3: fc > - | network output",
    ),
    "parametrized": (
        "2 4: 2 > 4.fc",
        "0 6: 0 > - | hooks or parametrizations on 1",
        "4.fc 3: 4.fc > - | network output",
    ),
    "Unused": (
        "conv.0 6: conv.0 > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "SeveralOutputs": (
        "stem.0 6: stem.0 > trunk.0",
        "trunk.0 5: trunk.0 > head.fc map",
        "head.fc 3: head.fc > - | network output",
        "map 2: map > - | network output",
    ),
    "NamedOutputs": (
        "trunk.0 5: trunk.0 > head.fc map",
        "stem.0 6: stem.0 > trunk.0 | network output",
        "head.fc 3: head.fc > - | network output",
        "map 2: map > - | network output",
    ),
    "Functional": (
        "one 6: one two gate > two gate fc",
        "fc 3: fc > -"
        " | reached by log_softmax at "
        "`return F.log_softmax(self.fc(y.view(y.shape[0], 6)), dim=1)`",
    ),
    "Defaults": (
        "one.0 6: one.0 > two.0",
        "two.0 5: two.0 > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "FunctionalDropout": (
        "one.0 6: one.0 > two.0",
        "two.0 5: two.0 > head.fc",
        "head.fc 3: head.fc > - | network output",
    ),
    "SeveralInputs": (
        "conv.0 5: conv.0 > hidden",
        "numbers 6: numbers > hidden",
        "hidden 7: hidden > fc",
        "fc 3: fc > - | network output",
    ),
    "Causal": (
        "conv1 6: conv1 > conv2",
        "conv2 5: conv2 > fc",
        "fc 3: fc > - | network output",
    ),
    "Paddings": (
        "number 6: number > same",
        "same 5: same > wide",
        "wide 5: wide > valid",
        "valid 4: valid > none",
        "none 4: none > fc",
        "fc 3: fc > - | network output",
    ),
    "PaddingModes": (
        "reflect 6: reflect > replicate",
        "replicate 5: replicate > circular",
        "circular 5: circular > short",
        "short 4: short > fc",
        "fc 3: fc > - | network output",
    ),
    "PaddedBefore": (
        "one 5: one two > two three",
        "three 6: three > four",
        "four 4: four > fc",
        "fc 3: fc > - | network output",
    ),
    "Temporal": (
        "stem 3: stem depthwise point twice > point twice grouped",
        "grouped 2: grouped > strided",
        "strided 4: strided > fc",
        "fc 3: fc > - | network output",
    ),
    "UNet": (
        "down1 5: down1 > down2 merge",
        "down2 6: down2 bottom > bottom merge",
        "merge 5: merge > last",
        "last 2: last > - | network output",
    ),
    "Volumes": (
        "conv1 5: conv1 conv2 > conv3",
        "conv3 4: conv3 > fc",
        "fc 3: fc > - | network output",
    ),
    "Attention": (
        "wide 12: wide > narrow",
        "embed 8: embed narrow > fc | reached by LayerNorm norm1 at `y = self.norm1(x)`",
        "query 4: query > -"
        " | reached by matmul at "
        "`scores = torch.matmul(self.query(y), self.key(y).transpose(1, 2)) / 2.0`",
        "key 4: key > -"
        " | reached by matmul at "
        "`scores = torch.matmul(self.query(y), self.key(y).transpose(1, 2)) / 2.0`",
        "value 8: value > -"
        " | reached by matmul at `x = x + torch.matmul(torch.softmax(scores, -1), self.value(y))`",
        "fc 3: fc > - | network output",
    ),
    "Tokens": (
        "wide 10: wide > fc",
        "embed 8: embed > -"
        " | channels on several axes reach add at `x = x + self.place(torch.arange(x.size(1)))`",
        "fc 3: fc > - | network output",
    ),
    "Words": (
        "conv 5: conv > fc",
        "fc 3: fc > - | network output",
    ),
    "Recurrent": (
        "hidden 6: hidden > fc",
        "embed 4: embed > -"
        " | reached by LSTM lstm at `x, _ = self.lstm(torch.relu(self.embed(x)))`",
        "fc 3: fc > - | network output",
    ),
}

# Norms that fold into the layer before them.
FOLDED: dict[str, set[str]] = {
    "chain": {"1", "4"},
    "Residual": {"four.1", "one.1", "short.1", "stem.1", "three.1", "two.1"},
    "depthwise_separable": {"0.1", "2.1", "4.1"},
    "InvertedResidual": {"expand.1", "project.1", "spread.1", "stem.1"},
    "Concat": {"join.1", "left.1"},
    "SqueezeExcite": {"stem.1"},
    "PreActivation": {"norm2", "norm3"},
    "TwoResolutions": {"stem.1", "block.0.1", "block.2.1"},
    "Chunk": {"stem.1"},
    "Slices": {"stem.1"},
    "LiteralSplit": {"stem.1"},
    "Shuffle": {"branch.1", "stem.1"},
    "StackShuffle": {"left.1", "right.1"},
    "PixelShuffle": {"stem.1"},
    "FlattenModule": {"conv.1", "norm"},
    "FlattenFunction": {"conv.1", "norm"},
    "FlattenView": {"conv.1", "norm"},
    "FlattenLiteral": {"conv.1", "norm"},
    "Squeeze": {"conv.1"},
    "SliceBeforeOutput": {"one.1"},
    "MeanOverChannels": {"one.1"},
    "SoftmaxOverChannels": {"one.1"},
    "SoftmaxOverPositions": {"one.1"},
    "Flipped": {"one.1"},
    "ZeroPadShortcut": {"stem.1", "two.1"},
    "Doubled": {"stem.1", "two.1"},
    "Coordinates": {"stem.1", "two.1"},
    "BareScale": {"one.1", "two.1"},
    "Tied": {"conv.1"},
    "Borrowed": {"conv.1"},
    "Unused": {"conv.1"},
    "SeveralOutputs": {"stem.1", "trunk.1"},
    "NamedOutputs": {"stem.1", "trunk.1"},
    "Functional": {"norm"},
    "Defaults": {"one.1", "two.1"},
    "FunctionalDropout": {"one.1", "two.1"},
    "SeveralInputs": {"conv.1"},
    "Causal": {"norm"},
    "Paddings": {"norm"},
    "Temporal": {"norm"},
    "UNet": {"norm2"},
    "Volumes": {"norm1"},
    "Words": {"norm"},
}

# Kernels along one axis: name, what may become of it.
KERNELS: dict[str, tuple[str, ...]] = {
    "Causal": ("conv1 1 to 3 taps, dilation 1 2", "conv2 1 to 3 taps, dilation 2 4"),
    "Paddings": (
        "number 1 to 5 taps, dilation 1 2 4",
        "same 1 to 4 taps, dilation 2 4",
        "wide 1 to 3 taps, dilation 1 2",
        "valid 1 to 6 taps, dilation 2 4 8",
        "none 1 to 2 taps, dilation 1",
    ),
    "PaddingModes": (
        "reflect 1 to 7 taps, dilation 1 2 4",
        "replicate 1 to 4 taps, dilation 1 2",
        "circular 1 to 5 taps, dilation 1 2 4",
        "short 1 to 8 taps, dilation 1 2 4",
    ),
    "PaddedBefore": (
        "one 1 to 5 taps, dilation 1 2 4",
        "two 1 to 3 taps, dilation 2 4",
        "three 1 to 5 taps, dilation 1 2 4",
        "four 1 to 9 taps, dilation 1 2 4 8",
    ),
    "Temporal": (
        "stem 1 to 7 taps, dilation 1 2 4",
        "depthwise 1 to 9 taps, dilation 1 2 4 8",
        "point frozen: a single tap",
        "twice 1 to 5 taps, dilation 1 2 4",
        "grouped 1 to 4 taps, dilation 1 2",
        "strided frozen: stride 2 in strided",
    ),
    "UNet": (
        "down1 1 to 3 taps, dilation 1 2",
        "down2 frozen: stride 2 in down2",
        "bottom 1 to 3 taps, dilation 1 2",
        "merge 1 to 3 taps, dilation 1 2",
        "last frozen: a single tap",
    ),
    "Words": ("conv 1 to 3 taps, dilation 1 2",),
}
