package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// newEtcdCommand is the store of the test cluster's API: one member, no TLS, reachable over loopback only.
func newEtcdCommand() *cobra.Command {
	config := embed.NewConfig()
	config.Name = "kindling-test"
	config.LogLevel = "warn"
	clientURL, peerURL := "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	command := &cobra.Command{
		Use:          "etcd",
		Short:        "Runs a single etcd member",
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			client, err := url.Parse(clientURL)
			if err != nil {
				return fmt.Errorf("parse the client URL: %w", err)
			}
			peer, err := url.Parse(peerURL)
			if err != nil {
				return fmt.Errorf("parse the peer URL: %w", err)
			}
			config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
			config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
			config.InitialCluster = config.InitialClusterFromName(config.Name)
			etcd, err := embed.StartEtcd(config)
			if err != nil {
				return fmt.Errorf("start etcd: %w", err)
			}
			defer etcd.Close()
			return <-etcd.Err()
		},
	}
	flags := command.Flags()
	flags.StringVar(&config.Dir, "data-dir", "", "where the data lies")
	flags.StringVar(&clientURL, "client-url", clientURL, "where clients connect")
	flags.StringVar(&peerURL, "peer-url", peerURL, "where peers would connect")
	flags.BoolVar(&config.UnsafeNoFsync, "unsafe-no-fsync", false, "do not sync files: faster, loses data if the machine stops")
	return command
}
