"""A pool as settings may want it, for tests."""

from __future__ import annotations

from tes_server.backends.azure_batch.pools import Image, Node, Pool

IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/batch"

POOL = Pool(
    id="big",
    vm_size="Standard_D4s_v3",
    spot=True,
    most=10,
    least=0,
    slots=4,
    node=Node(4.0, 17.2, 30.9, 0),
    image=Image("microsoft-dsvm", "ubuntu-hpc", "2204", "latest", "", "batch.node.ubuntu 22.04"),
    runner="registry.example.org/tes-server:1",
    registry_identity=IDENTITY,
    identities=(IDENTITY,),
    subnet=SUBNET,
    public_ip=False,
    start="/bin/sh -c 'true'",
    server="org-example",
)
