package main

import (
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// newEtcdCommand runs one etcd member on unix sockets, for clusters that are thrown away.
//
// It does not call fsync: it survives the death of every process (the kernel keeps the pages), not the loss of power.
func newEtcdCommand() *cobra.Command {
	var dataDir, socket string
	command := &cobra.Command{
		Use:  "etcd",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return runEtcd(dataDir, socket)
		},
	}
	command.Flags().StringVar(&dataDir, "data-dir", "", "folder of the database")
	command.Flags().StringVar(&socket, "socket", "", "path to listen on for clients (under 100 bytes); peers use PATH.peer")
	return command
}

func runEtcd(dataDir, socket string) error {
	client := url.URL{Scheme: "unix", Path: socket}
	peer := url.URL{Scheme: "unix", Path: socket + ".peer"}
	config := embed.NewConfig()
	config.Name = "local"
	config.Dir = dataDir
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.TickMs, config.ElectionMs = 10, 100 // a member alone needs no patience to elect itself
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	config.QuotaBackendBytes = 4 << 30

	stopped := genericapiserver.SetupSignalContext().Done()
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer etcd.Close()
	select {
	case <-etcd.Server.ReadyNotify():
	case <-stopped:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("etcd was not ready within a minute")
	}
	select {
	case <-stopped:
		return nil
	case err := <-etcd.Err():
		return err
	}
}
