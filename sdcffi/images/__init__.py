"""Images as arrays and Pillow images: conversion, resizing, comparison, contact sheets, and image and video files."""
